# SPDX-License-Identifier: Apache-2.0
# Timed callbacks, and connections that modules suspend (parity K02, K03, K22, S30-S33, X21).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(start_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker has no timers' if $mpm eq 'worker';

sub server {
    my ($threads, $conf, @more) = @_;
    return Hybrid::Server->new(probe => 1, conf => $conf // '',
        mpm_conf => "StartServers 1\nThreadsPerChild $threads\nMaxRequestWorkers $threads\nMinSpareThreads 1", @more)->start;
}

sub fired { my ($s) = @_; return map { $_->{name} } grep { $_->{hook} eq 'timer' } $s->probe }

subtest 'K02, S30, S31: on an idle child, on time, again and again' => sub {
    my $s = server(2);
    my $client = Hybrid::Client->new($s->port);
    my $begin = monotonic();
    is $client->get('/timer?ms=300&n=5')->{body}, "rv=0\n", 'registered';
    $client->disconnect;
    if ($mpm eq 'event') {
        ok !wait_for(sub { fired($s) == 5 }, 6), 'difference: event forgets them while nothing else happens';
        return;
    }
    ok wait_for(sub { fired($s) == 5 }, 20), 'five, each registered by the one before';
    cmp_ok monotonic() - $begin, '>', 1.4, 'none before its time';
    my @times = map { $_->{time} } grep { $_->{hook} eq 'timer' } $s->probe;
    my @late = sort { $a <=> $b } map { $times[$_] - $times[ $_ - 1 ] - 300_000 } 1 .. 4;
    cmp_ok $late[1], '<', 150_000, 'and not long after it';
};

subtest 'S31: registered by child_init' => sub {
    plan skip_all => 'event crashes: its mutex is made later' if $mpm ne 'hybrid';
    my $s = server(2, 'HybridProbeTimerAtInit 200');
    ok wait_for(sub { grep { $_ eq 'init' } fired($s) }, 10), 'fires';
    is +(grep { $_->{hook} eq 'timer_registered' } $s->probe)[0]{rv}, 0, 'without an error';
    is scalar($s->children), 1, 'and without harm';
};

subtest 'S32: in the order of their times' => sub {
    my $s = server(1);
    my $client = Hybrid::Client->new($s->port);
    my %ms = (1 => 900, 2 => 500, 3 => 700, 4 => 500, 5 => 300);
    $client->send(join '', map { "GET /timer?tag=$_&ms=$ms{$_} HTTP/1.1\r\nHost: x\r\n\r\n" } 1 .. 5);
    is $client->response->{body}, "rv=0\n", 'registered' for 1 .. 5;
    # event needs something to happen
    ok wait_for(sub { $s->status if $mpm eq 'event'; fired($s) == 5 }, 15), 'all come';
    is join(' ', fired($s)), 'pulse5 pulse2 pulse4 pulse3 pulse1', 'in order' if $mpm eq 'hybrid';
};

subtest 'K22: a callback that takes its time is work' => sub {
    plan skip_all => 'event counts its thread as idle' if $mpm ne 'hybrid';
    my $s = server(3);
    ok wait_for(sub { $s->status->{BusyWorkers} == 1 }, 10), 'who asks is at work';
    is $s->get('/timer?ms=1&hold=3000')->{status}, 200, 'registered';
    ok wait_for(sub { fired($s) == 1 }, 10), 'it runs';
    my $status;
    ok wait_for(sub { $status = $s->status; $status->{BusyWorkers} == 2 }, 2), 'and is seen at work';
    is $status->{IdleWorkers}, 1, 'not idle';
};

subtest 'S33: a child that ends does not wait for timers' => sub {
    my $s = server(2);
    is $s->get('/timer?ms=60000')->{status}, 200, 'one in a minute';
    my ($old) = $s->children;
    $s->graceful;
    ok wait_for(sub { !$s->alive($old) }, 10), 'graceful: the child ends at once';
    is $s->get('/timer?ms=60000')->{status}, 200, 'one more';
    cmp_ok $s->stop, '<', 5, 'stop: too';
    is scalar(fired($s)), 0, 'neither is run when its time has not come';
};

# Timeout is what a client would get, GracefulRestartTimeout what the administrator allows (W40).
for (['Timeout', "Timeout 2\n"], ['GracefulRestartTimeout', "Timeout 300\nGracefulRestartTimeout 2\n"]) {
    my ($name, $conf) = @$_;
    subtest "W40: a callback that never returns keeps a child for $name" => sub {
        plan skip_all => 'event: such a child never ends' if $mpm ne 'hybrid';
        my $s = server(3, $conf, uncounted => 'a worker is in a callback until the end');
        is $s->get('/timer?ms=1&hold=3600000')->{status}, 200, 'registered';
        ok wait_for(sub { fired($s) == 1 }, 10), 'it runs';
        my ($old) = $s->children;
        my $begin = monotonic();
        $s->graceful;
        is $s->get('/')->{status}, 200, 'after a reload another child serves';
        ok wait_for(sub { !$s->alive($old) }, 30), 'the old one ends';
        cmp_ok monotonic() - $begin, '>', 1.8, 'when it has waited as long as it may';
        like $s->log, qr/pid $old:.*HYB0005: 1 worker\(s\) still in a handler, ending without them/, 'and says why';
        is $s->get('/timer?ms=1&hold=3600000')->{status}, 200, 'one more';
        ok wait_for(sub { fired($s) == 2 }, 10), 'runs';
        cmp_ok $s->stop, '<', 5, 'a stop waits for none';
    };
}

subtest 'K03: a connection that no module lets go does not keep a child' => sub {
    plan skip_all => 'event: such a child never ends' if $mpm ne 'hybrid';
    my $s = server(2, "Timeout 2\nListen 127.0.0.1:\@PORT2\@ probe\nHybridProbePort \@PORT2\@ hold");
    my $client = Hybrid::Client->new($s->port(2));
    $client->read_until(qr/suspended/);
    my ($old) = $s->children;
    my $begin = monotonic();
    $s->graceful;
    ok wait_for(sub { !$s->alive($old) }, 20), 'after a reload the child ends';
    cmp_ok monotonic() - $begin, '>', 1.5, 'when it has waited for Timeout';
    like $s->log, qr/HYB0003: 1 suspended connection/, 'and says why';
};

subtest 'K03, X21: mod_dialup' => sub {
    my $s = server(2, "<Location /slow>\nModemStandard V.92\n</Location>\nKeepAliveTimeout 60", modules => ['dialup']);
    $s->file('slow', 'x' x 20_000);
    my $client = Hybrid::Client->new($s->port, limit => 20);
    $client->send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    if ($mpm eq 'event') {
        ok !eval { $client->response(limit => 8); 1 }, 'difference: event never gets to the end';
        return;
    }
    my $begin = monotonic();
    is length $client->response->{body}, 20_000, 'the whole file';
    cmp_ok monotonic() - $begin, '>', 1.5, 'at a modem\'s pace';
    is $client->get('/')->{body}, "hello\n", 'a second request on the same connection';
    is length $client->get('/slow')->{body}, 20_000, 'and a third, slow again';
    my %hooks;
    $hooks{ $_->{hook} }++ for grep { ($_->{conn} // '') =~ /:@{[ $client->socket->sockport ]}$/ } $s->probe;
    cmp_ok $hooks{suspend}, '>', 2, 'it was suspended';
    # Now idle: suspended, as every kept-alive connection.
    is $hooks{suspend}, $hooks{resume} + 1, 'and resumed each time';

    my @slow = map { start_command(30, qw(curl -s -o /dev/null -w), '%{http_code} %{size_download}', $s->url('/slow')) } 1 .. 4;
    ok wait_for(sub { $s->status->{ConnsTotal} >= 5 }, 10), 'four at once';
    is $s->get('/')->{status}, 200, 'hold none of the two workers';
    my ($old) = $s->children;
    $s->graceful;
    is join(' ', map { $_->() } @slow), '200 20000 200 20000 200 20000 200 20000', 'a reload lets them finish';
    is $client->get('/')->{header}{connection}, 'close', 'the idle one is closed with its next answer';
    $client->disconnect;
    ok wait_for(sub { !$s->alive($old) }, 20), 'and the old child ends';
};

done_testing;
