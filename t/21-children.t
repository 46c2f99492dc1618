# SPDX-License-Identifier: Apache-2.0
# How many children there are, and which (parity P, H04, H05, K16, B14).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'the rules are event\'s' if $mpm eq 'worker';

sub server {
    my ($mpm_conf, %option) = @_;
    return Hybrid::Server->new(probe => 1, mpm_conf => $mpm_conf, %option)->start;
}

subtest 'P09, P20: the start' => sub {
    my $s = server("StartServers 3\nThreadsPerChild 2\nMaxRequestWorkers 12\nMinSpareThreads 1\nMaxSpareThreads 12");
    is scalar($s->children), 3, 'StartServers children';
    is join(' ', $s->log =~ /Child (\d+) started/g), '0 1 2', 'in slots from the first on';
    like $s->log, qr/AH00489: .* configured -- resuming normal operations.*AH00490: Server built: .*AH00094: Command line:/s,
        'event\'s lines';
};

subtest 'P04, P05, P07: more when there are too few idle ones, up to MaxRequestWorkers' => sub {
    my $s = server("StartServers 1\nThreadsPerChild 2\nMaxRequestWorkers 6\nMinSpareThreads 2\nMaxSpareThreads 6");
    my @clients = $s->hold(4_000, 6);
    is scalar($s->children), 3, 'as many as MaxRequestWorkers allows';
    my @more = map {
        my $client = Hybrid::Client->new($s->port);
        $client->send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        $client;
    } 1 .. 4;
    $s->wait_log(qr/AH00484: server reached MaxRequestWorkers setting, consider raising the MaxRequestWorkers setting/, 10);
    is scalar(grep { $_->response->{status} == 200 } @clients, @more), 10, 'who came too late waits and is answered';
    is scalar(() = $s->log =~ /AH00484/g), 1, 'and that was said once';
};

subtest 'P03, K16: fewer when there are too many' => sub {
    my $s = server("StartServers 4\nThreadsPerChild 2\nMaxRequestWorkers 8\nMinSpareThreads 1\nMaxSpareThreads 4\nMaxKeepAliveRequests 0");
    my $client = Hybrid::Client->new($s->port);
    my ($mine) = $client->get('/conn')->{body} =~ /pid=(\d+)/;
    if ($mpm eq 'hybrid') {
        ok wait_for(sub { $client->get('/'); $s->children <= 2 }, 20), 'children are ended one by one';
        my %left = map { $_ => 1 } $s->children;
        ok $left{$mine}, 'not the one with a client';
        is $client->get('/')->{header}{connection}, undef, 'whose connection goes on';
    }
    else {
        ok wait_for(sub { $s->children <= 2 }, 20), 'children are ended one by one, whoever is there';
    }
    ok wait_for(sub { $s->status->{Stopping} == 0 }, 10), 'none hangs';
    is $s->get('/')->{status}, 200, 'it serves';
};

subtest 'P08: no slot' => sub {
    my $s = server("StartServers 2\nServerLimit 2\nThreadsPerChild 2\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 4");
    my @clients = $s->hold(5_000, 4);
    my $reload = fork // die;
    if (!$reload) { kill 'USR1', $s->{pid}; POSIX::_exit(0) }
    waitpid $reload, 0;
    my $new = Hybrid::Client->new($s->port);
    $new->send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    is scalar(grep { $_->response->{body} =~ /^slept/ } @clients), 4, 'what is in work is answered';
    is $new->response->{status}, 200, 'and then the next';
    # event has used up StartServers by then, and starts as many as spare workers ask for.
    my $complete = $mpm eq 'hybrid' ? 2 : 1;
    ok wait_for(sub { $s->children >= $complete && $s->status->{Stopping} == 0 }, 20), 'the new generation is complete';
};

subtest 'P18, B14: fewer are configured than run' => sub {
    my $s = server("StartServers 4\nServerLimit 8\nThreadLimit 8\nThreadsPerChild 4\nMaxRequestWorkers 16\nMinSpareThreads 1\nMaxSpareThreads 16");
    my @old = $s->children;
    my @held = $s->hold(20_000, 5); # so that one child has two, one of them beyond the rows that will be configured
    my %busy = map { $_->{pid} => 1 } grep { $_->{hook} eq 'sleep' } $s->probe;
    $s->{mpm_conf} = "StartServers 1\nServerLimit 8\nThreadLimit 8\nThreadsPerChild 1\nMaxRequestWorkers 2\nMinSpareThreads 1\nMaxSpareThreads 2";
    $s->write_conf($s->conf_text);
    $s->graceful;
    ok wait_for(sub { my %now = map { $_ => 1 } $s->children; (grep { $now{$_} } @old) == keys %busy }, 20), 'the old ones go, but the busy ones';
    kill 'KILL', keys %busy;
    ok wait_for(sub { !grep { Hybrid::Server::_alive($_) } keys %busy }, 10), 'those are killed';
    my $clean = wait_for(sub { $s->status->{Scoreboard} =~ tr/A-Z/A-Z/ == 1 }, 10);
    ok $clean, 'no stale worker is shown' if $mpm eq 'hybrid'; # event forgets the rows beyond the new number
    $s->stop;
    ok wait_for(sub { !grep { Hybrid::Server::_alive($_) } @old }, 5), 'and none is left at the end';
};

# The probe keeps connections where they are: what the former child takes has to wait for its workers.
subtest 'K07: who comes when all workers of a child that ends are blocked is left to the next one' => sub {
    plan skip_all => 'children keep their slots' if $mpm ne 'hybrid';
    my $s = server("StartServers 1\nServerLimit 1\nThreadsPerChild 2\nMaxRequestWorkers 2\nMinSpareThreads 1\nMaxSpareThreads 2",
        uncounted => 'handlers sleep until the end');
    my @held = $s->hold(30_000, 2);
    my ($old) = $s->children;
    kill 'STOP', $old; # so that it hears of both at the same time
    $s->signal('USR1');
    $s->wait_log(qr/AH00493/);
    my @new = map { Hybrid::Client->new($s->port) } 1 .. 2;
    $_->send("GET /conn HTTP/1.1\r\nHost: x\r\n\r\n") for @new;
    kill 'CONT', $old;
    my @pids = map { my $r = eval { $_->response(limit => 15) }; $r ? $r->{body} =~ /pid=(\d+)/ : 'no answer' } @new;
    is scalar(grep { /^\d/ && $_ != $old } @pids), 2, "answered by the next child: @pids (the former is $old)";
};

# mod_cgid knows its programs by it, and ends one by it when its client goes.
subtest 'W22, S24: c->id is unique, also when a child has left its slot to another' => sub {
    plan skip_all => 'children keep their slots' if $mpm ne 'hybrid';
    my $s = server("StartServers 1\nServerLimit 1\nThreadsPerChild 2\nMaxRequestWorkers 2\nMinSpareThreads 1\nMaxSpareThreads 2",
        uncounted => 'handlers sleep until the end');
    my @clients = $s->hold(20_000, 2);
    for my $reload (1 .. 2) {
        $s->graceful;
        ok wait_for(sub { (() = $s->log =~ /HYB0011/g) >= $reload }, 10), 'the former child leaves its slot';
        push @clients, $s->hold(20_000, 2);
    }
    my %id; # of those that are in the handler
    $id{ $_->{conn} } = $_->{id} for grep { $_->{hook} eq 'sleep' } $s->probe;
    is scalar(keys %id), 6, 'six requests are at work in three children';
    my %different = map { $_ => 1 } values %id;
    is scalar(keys %different), 6, 'each has an id of its own: ' . join(' ', sort values %id);
    is scalar(grep { $_ >= 1 << 24 } values %id), 0, 'which leaves room for the streams of HTTP/2';
};

subtest 'H04, H05, C13: listener buckets' => sub {
    my $s = server("StartServers 2\nThreadsPerChild 2\nMaxRequestWorkers 8\nMinSpareThreads 1\nMaxSpareThreads 8\nListenCoresBucketsRatio 1");
    my $sockets = sub { my $port = $s->port; return scalar(() = `ss -ltnH "sport = :$port"` =~ /^LISTEN/mg) };
    my $buckets = $sockets->();
    plan skip_all => 'one core, one bucket' if $buckets < 2;
    cmp_ok $buckets, '>=', 2, 'several sockets on one port';
    cmp_ok scalar($s->children), '>=', $buckets, 'with a child each';
    my $links = join ' ', map { readlink($_) // '' } glob "/proc/@{[ ($s->children)[0] ]}/fd/*";
    my $port = $s->port;
    my @listening = map { "socket:[$_]" } `ss -ltnHe "sport = :$port"` =~ /ino:(\d+)/g;
    is scalar(grep { $links =~ /\Q$_\E/ } @listening), 1, 'a child has but its own';
    is $s->get('/')->{status}, 200, 'they serve' for 1 .. 8;
    $s->graceful;
    ok wait_for(sub { $sockets->() == $buckets }, 10), 'as many after a reload'; # when the former children have let go
    is $s->get('/')->{status}, 200, 'they serve' for 1 .. 8;
};

done_testing;
