#!/usr/bin/perl
# attacker.pl PORT DIRECTORY LEGERD: a web server as an attacker has it, at a port of the loopback address.
#
# GET /page gives DIRECTORY/page.html, POST /page/result keeps what the page says as DIRECTORY/result. Everything else goes
# by DIRECTORY/mode: "legerd" hands it to the legerd at port LEGERD, as after the page's name was pointed there (DNS
# rebinding); "ordinary" answers it as any server does that trusts who reaches it. DIRECTORY/log has a line for each
# request: method, path, status.
use strict;
use warnings;
use IO::Socket::INET;

my ($port, $directory, $legerd) = @ARGV;
my $server = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1) or die "listen: $!";
$SIG{CHLD} = 'IGNORE';
$SIG{PIPE} = 'IGNORE';
print "ready\n";
$| = 1;
while (1) {
    my $client = $server->accept or next;
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        alarm 30;
        serve($client);
        exit 0;
    }
    close $client;
}

sub slurp {
    my ($name) = @_;
    open my $file, '<', "$directory/$name" or return '';
    local $/;
    return scalar <$file>;
}

sub note {
    my ($line) = @_;
    open my $file, '>>', "$directory/log" or die "log: $!";
    syswrite $file, "$line\n";
}

sub answer {
    my ($client, $type, $body) = @_;
    my $head = "HTTP/1.1 200 OK\r\nContent-Type: $type\r\nContent-Length: " . length($body) . "\r\n";
    $head .= "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *, Authorization\r\n";
    syswrite $client, "${head}Access-Control-Allow-Methods: *\r\nConnection: close\r\n\r\n$body";
}

sub serve {
    my ($client) = @_;
    my $request = '';
    while (index($request, "\r\n\r\n") < 0) {
        sysread($client, $request, 4096, length $request) or return;
    }
    my $end = index($request, "\r\n\r\n") + 4;
    my ($head, $body) = (substr($request, 0, $end), substr($request, $end));
    my ($length) = $head =~ /^Content-Length: *(\d+)/mi;
    while (length $body < ($length // 0)) {
        sysread($client, $body, 4096, length $body) or last;
    }
    my ($method, $path) = $head =~ /^(\S+) (\S+)/;
    if ($path =~ m{^/page/result}) {
        open my $file, '>', "$directory/result.new" or die "result: $!";
        print $file $body;
        close $file;
        rename "$directory/result.new", "$directory/result";
        return answer($client, 'text/plain', 'kept');
    }
    return answer($client, 'text/html', slurp('page.html')) if $path =~ m{^/page};
    return answer($client, 'image/x-icon', '') if $path eq '/favicon.ico';
    if (slurp('mode') eq 'ordinary') {
        note("$method $path 200");
        my $canary = slurp('canary');
        return answer($client, 'application/json', qq({"Value":"$canary"}));
    }
    my $door = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $legerd) or return note("$method $path -");
    $head =~ s/^Connection: keep-alive\r\n/Connection: close\r\n/mi;
    syswrite $door, $head . $body;
    my $response = '';
    1 while sysread($door, $response, 65536, length $response);
    my ($status) = $response =~ m{^HTTP/1\.1 (\d+)};
    note("$method $path " . ($status // '-'));
    syswrite $client, $response;
}
