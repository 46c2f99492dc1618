# SPDX-License-Identifier: Apache-2.0
# What is counted after every test (Hybrid::Count): a leak that is planted is seen, and named.

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Count;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'only hybrid and event are counted' if $mpm !~ /^(?:hybrid|event)$/;

sub server { return Hybrid::Server->new(probe => 1, @_)->start }

# Waits until what is left over is what the patterns say, one line for each.
sub left_over {
    my ($s, $name, @patterns) = @_;
    my @lines;
    my $same = wait_for(sub {
        @lines = Hybrid::Count::surplus($s);
        return @lines == @patterns && !grep { $lines[$_] !~ $patterns[$_] } 0 .. $#patterns;
    }, 10);
    ok $same, $name or diag explain \@lines;
}

subtest 'nothing is left over' => sub {
    my $s = server();
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 5;
    is scalar(grep { $_->get('/')->{status} == 200 } @clients), 5, 'five clients';
    left_over($s, 'those that are idle may stay');
    $_->disconnect for @clients;
    left_over($s, 'nor when they have gone');
    my @old = $s->children;
    $s->graceful;
    my %old = map { $_ => 1 } @old;
    ok wait_for(sub { !grep { $old{$_} } $s->children }, 20), 'other children';
    left_over($s, 'nor after a reload');
    ok $s->settle, 'so it is accepted';
};

subtest 'a file' => sub {
    my $s = server(uncounted => 'it leaks');
    $s->get('/leak') for 1 .. 2;
    left_over($s, 'is seen', (qr{^child \d+: \d x /dev/null, not \d}) x (() = Hybrid::Count::surplus($s)));
    isnt scalar(Hybrid::Count::surplus($s)), 0, 'in one child or two';
};

subtest 'a client' => sub {
    my $s = server(uncounted => 'it leaks');
    my $client = Hybrid::Client->new($s->port);
    is $client->get('/leak?socket=1')->{status}, 200, 'its socket is kept twice';
    left_over($s, 'which is seen while it is there', qr/^child \d+: another descriptor of the connection to 127\.0\.0\.1:\d+$/);
    $client->disconnect;
    left_over($s, 'and when it has gone', qr/^child \d+: (?:connection to .*, whose client has gone|1 x socket that is no longer connected, not 0)$/);
};

subtest 'a request' => sub {
    plan skip_all => 'event counts late' if $mpm ne 'hybrid';
    my $s = server();
    my $client = $s->hold(3_000);
    my @busy = Hybrid::Count::scoreboard($s, scalar($s->children), 0);
    is_deeply [ @busy[ 0, 1 ] ], [ 'scoreboard: BusyWorkers is 2, not 1', 'scoreboard: ConnsTotal is 2, not 1' ], 'in work is seen';
    like $busy[2], qr/^hybrid-status: [23] clients are open, not 1$/, 'it has not ended';
};

subtest 'a descriptor that is closed twice' => sub {
    my $s = server(uncounted => 'more is remembered than there is');
    $s->{counted}{child}{'anon_inode:[eventpoll]'}++;
    my @children = $s->children;
    left_over($s, 'is seen', (qr/^child \d+: \d+ x anon_inode:\[eventpoll\], not \d/) x @children);
};

done_testing;
