#!/usr/bin/perl
# timer: runs programs in turn and prints, for each run, how long it took and what the kernel counted of it (wait4(2)).
#
# Usage: timer.pl ROUNDS WARMUPS <CASES. A case is a line of KEY=VALUE, percent-encoded, with a space between them:
#   arg=…      the program and its arguments, one each
#   env=N=V    its whole environment, one variable each
#   prints=…   what standard output must be; absent: not looked at, at most 64 KiB
#   umask=077 for it; absent: ours
#   copies=N   how many of it make up one run, and at_once=N how many at a time; absent: 1
#   before=…   after=…   a line of shell around each run, not counted
# Each run is a line: case, wall, user and system time (µs), peak memory (KiB), minor and major page faults.
# Times and faults of copies are added up. Each round has an order of its own, so that none always comes after the same.
#
# In Perl because every Debian has it, on whole machines too, and because it is small: a program's peak memory begins
# with that of the process that forked it, so from Node it could not be told.
use strict;
use warnings;
use List::Util ();
use POSIX ();

# The numbers of wait4 and clock_gettime: perl-base has no module for either.
my %numbers = (x86_64 => [61, 228], aarch64 => [260, 113]);
my ($WAIT4, $CLOCK_GETTIME) = @{$numbers{(POSIX::uname())[4]} // die "timer: not for this architecture\n"};
my $CLOCK_MONOTONIC = 1;

my ($rounds, $warmups) = @ARGV;
my @cases;
while (my $line = <STDIN>) {
  chomp $line;
  my %case = (arg => [], env => {}, copies => 1, at_once => 1);
  for my $pair (split / /, $line) {
    my ($key, $value) = split /=/, $pair, 2;
    $value =~ s/%([0-9A-F]{2})/chr hex $1/ge;
    if ($key eq 'arg') { push @{$case{arg}}, $value }
    elsif ($key eq 'env') { my ($name, $is) = split /=/, $value, 2; $case{env}{$name} = $is }
    else { $case{$key} = $value }
  }
  push @cases, \%case;
}
open STDIN, '<', '/dev/null' or die "timer: /dev/null: $!\n";
$| = 1;

for my $round (-$warmups .. $rounds - 1) {
  for my $number (List::Util::shuffle(0 .. $#cases)) {
    my $case = $cases[$number];
    aside($case, 'before');
    my @counted = run($number, $case);
    aside($case, 'after');
    print join(' ', $number, @counted), "\n" if $round >= 0;
  }
}

sub run {
  my ($number, $case) = @_;
  my ($left, $peak) = ($case->{copies}, 0);
  my (%running, @sums);
  my $began = now();
  while ($left > 0 || %running) {
    while ($left > 0 && keys %running < $case->{at_once}) {
      my ($pid, $output) = launch($case);
      $running{$pid} = $output;
      $left--;
    }
    my ($status, $usage) = ("\0" x 4, "\0" x 144);
    my $pid = syscall($WAIT4, -1, $status, 0, $usage);
    next unless exists $running{$pid};
    my $ended = now();
    my ($user_s, $user_us, $system_s, $system_us, $maxrss, undef, undef, undef, $minor, $major) = unpack 'q10', $usage;
    my $output = delete $running{$pid};
    my $printed = do { local $/; <$output> } // '';
    $status = unpack 'i', $status;
    die "timer: case $number: wait status $status\n" if $status != 0;
    die "timer: case $number: standard output is not as it should be\n"
      if defined $case->{prints} && $printed ne $case->{prints};
    $peak = $maxrss if $maxrss > $peak;
    my @more = ($user_s * 1e6 + $user_us, $system_s * 1e6 + $system_us, $minor, $major);
    $sums[$_] += $more[$_] for 0 .. 3;
    return ($ended - $began, @sums[0, 1], $peak, @sums[2, 3]) if $left == 0 && !%running;
  }
}

# Podman reads a driver's answer from a pipe, too.
sub launch {
  my ($case) = @_;
  pipe my $output, my $input or die "timer: pipe: $!\n";
  my $pid = fork // die "timer: fork: $!\n";
  if ($pid == 0) {
    open STDOUT, '>&', $input or POSIX::_exit(126);
    %ENV = %{$case->{env}};
    umask oct $case->{umask} if defined $case->{umask};
    exec { $case->{arg}[0] } @{$case->{arg}} or POSIX::_exit(127);
  }
  close $input;
  return ($pid, $output);
}

sub aside {
  my ($case, $which) = @_;
  return unless defined $case->{$which};
  local %ENV = %{$case->{env}};
  system('/bin/sh', '-c', "{ $case->{$which}\n} >&2") == 0 or die "timer: failed: $case->{$which}\n";
}

sub now {
  my $time = "\0" x 16;
  syscall $CLOCK_GETTIME, $CLOCK_MONOTONIC, $time;
  my ($seconds, $nanoseconds) = unpack 'q2', $time;
  return int($seconds * 1e6 + $nanoseconds / 1e3);
}
