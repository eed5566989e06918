#!/usr/bin/perl
# reader.pl PID mem|fd NEEDLE: looks for a text in another process's memory, or in the files that it has open, and says
# "found" once it is there.
use strict;
use warnings;

my ($pid, $where, $needle) = @ARGV;
($pid) = $pid =~ /^(\d+)$/;

if ($where eq 'mem') {
    open my $maps, '<', "/proc/$pid/maps" or die "maps: $!\n";
    open my $mem, '<:raw', "/proc/$pid/mem" or die "mem: $!\n";
    while (<$maps>) {
        my ($from, $to) = /^([0-9a-f]+)-([0-9a-f]+) r/ or next;
        ($from, $to) = (hex $from, hex $to);
        my $kept = '';
        for (my $at = $from; $at < $to; $at += 1 << 20) {
            sysseek $mem, $at, 0 or last;
            my $read = sysread $mem, my $chunk, ($to - $at < 1 << 20 ? $to - $at : 1 << 20);
            last unless $read;
            found() if index($kept . $chunk, $needle) >= 0;
            $kept = substr $chunk, -length $needle;
        }
    }
} else {
    opendir my $directory, "/proc/$pid/fd" or die "fd: $!\n";
    for my $name (readdir $directory) {
        my ($fd) = $name =~ /^(\d+)$/ or next;
        -f "/proc/$pid/fd/$fd" or next;
        open my $file, '<:raw', "/proc/$pid/fd/$fd" or next;
        sysread $file, my $head, 4096;
        found() if index($head // '', $needle) >= 0;
    }
}
print "nothing\n";

sub found {
    print "found\n";
    exit 0;
}
