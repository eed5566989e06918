#!/usr/bin/perl
# impostor.pl SOCKET VALUE BASE64 LOG [open]: answers whoever connects there as legerd would, with a value of its own, and keeps what it
# is sent.
use strict;
use warnings;
use IO::Socket::UNIX;

my ($path, $value, $encoded, $log, $open) = @ARGV;
unlink $path;
my $server = IO::Socket::UNIX->new(Local => $path, Listen => 16) or die "listen: $!";
chmod 0600, $path;
chmod 0666, $path if defined $open;
$SIG{PIPE} = 'IGNORE';
while (my $client = $server->accept) {
    my ($request, $end, $length) = ('', -1, 0);
    while ($end < 0 || length $request < $end + 4 + $length) {
        sysread($client, $request, 65536, length $request) or last;
        $end = index $request, "\r\n\r\n";
        ($length) = $request =~ /^Content-Length: *(\d+)/mi;
        $length //= 0;
    }
    open my $file, '>>', $log or die "log: $!";
    print $file $request;
    close $file;
    my ($path_asked) = $request =~ /^\S+ (\S+)/;
    my ($status, $type, $body) = ('200 OK', 'application/json', qq({"Value":"$encoded","Version":1}));
    ($type, $body) = ('application/octet-stream', $value) if $path_asked =~ m{^/v1/podman/};
    ($type, $body) = ('text/plain; charset=utf-8', "KEY=$value\n") if $path_asked =~ m{^/v1/services/};
    ($status, $type, $body) = ('404 Not Found', 'text/plain; charset=utf-8', "not found\n") if $path_asked eq '/api/info';
    syswrite $client, "HTTP/1.1 $status\r\nContent-Type: $type\r\nLeger-Version: 1\r\nLeger-Versions: KEY=1\r\n"
        . 'Content-Length: ' . length($body) . "\r\nConnection: close\r\n\r\n$body";
    close $client;
}
