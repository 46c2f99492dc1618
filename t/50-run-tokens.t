# SPDX-License-Identifier: Apache-2.0
# Who runs: few workers while they compute, as many as are blocked, and nobody is left waiting beside them.

use strict;
use warnings;
use Test::More;
use IO::Select;
use POSIX ();
use Socket qw(SOL_SOCKET SO_SNDBUF);
use Hybrid::Client;
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'it has no run tokens' if $mpm eq 'worker';

sub server {
    my ($mpm_conf, $conf) = @_;
    return Hybrid::Server->new(probe => 1, mpm_conf => $mpm_conf, conf => $conf // '')->start;
}

sub threads { my ($pid) = @_; return scalar(() = glob "/proc/$pid/task/*") }

# The longest of $count answers, one after the other on new connections, in seconds.
sub slowest {
    my ($s, $count) = @_;
    my $slowest = 0;
    for (1 .. $count) {
        my $begin = monotonic();
        Hybrid::Client->new($s->port)->get('/')->{status} == 200 or return 999;
        my $took = monotonic() - $begin;
        $slowest = $took if $took > $slowest;
    }
    return $slowest;
}

my $one_child = "StartServers 1\nServerLimit 1\nThreadsPerChild 12\nMaxRequestWorkers 12\nMinSpareThreads 1\nMaxSpareThreads 12";

subtest 'threads are made when they are needed' => sub {
    plan skip_all => 'event makes all at once' if $mpm ne 'hybrid';
    my $s = server($one_child);
    my ($child) = $s->children;
    my $own = Hybrid::Sanitizer::sanitizer() eq 'tsan' ? 2 : 0; # ThreadSanitizer has some of its own
    is threads($child), 2 + $own, 'at first one worker, and the main thread';
    $s->get('/') for 1 .. 50;
    cmp_ok threads($child), '<=', 3 + $own, 'short requests need no more';
    my @held = $s->hold(2_000, 8);
    cmp_ok threads($child), '>=', 10, 'blocked handlers do';
    is $s->get('/')->{status}, 200, 'another request is answered beside them';
    is $_->response->{status}, 200, 'and so are they' for @held;
    $s->hold(500, 12);
    cmp_ok threads($child), '<=', 13 + $own, 'never more than ThreadsPerChild';
};

subtest 'blocked handlers hold up nobody' => sub {
    my $s = server($one_child);
    my @held = $s->hold(4_000, 10);
    cmp_ok slowest($s, 20), '<', 1, 'requests beside ten of them, with twelve threads';
    is $_->response->{status}, 200, 'they are answered, too' for @held;
};

subtest 'nor do those that compute' => sub {
    my $s = server($one_child);
    my @busy = map {
        my $client = Hybrid::Client->new($s->port);
        $client->send("GET /spin?ms=4000 HTTP/1.1\r\nHost: x\r\n\r\n");
        $client;
    } 1 .. 3;
    cmp_ok slowest($s, 10), '<', 2, 'requests beside three of them';
    is $_->response->{status}, 200, 'they are answered, too' for @busy;
};

subtest 'more blocked handlers than one child has threads' => sub {
    my $s = server("StartServers 1\nThreadsPerChild 3\nMaxRequestWorkers 15\nMinSpareThreads 1\nMaxSpareThreads 15");
    my $begin = monotonic();
    my @held = $s->hold(8_000, 12); # dies after ten seconds
    my $took = monotonic() - $begin;
    cmp_ok $took, '<', 6, 'other children are started for them, long before one is done' if $mpm eq 'hybrid';
    cmp_ok scalar($s->children), '>=', 4, 'as many as it takes' if $mpm eq 'hybrid';
    cmp_ok slowest($s, 5), '<', 4, 'and beside them others are answered';
    $_->disconnect for @held;
};

# A client that pipelines without an end, until stop() says so: how many requests it has sent, and answers it has got.
sub Greedy::stop {
    my ($self) = @_;
    close $self->{stop};
    return map { scalar readline $_ } @{ $self->{counts} };
}
sub Greedy::DESTROY { my ($self) = @_; local ($?, $!); kill 'KILL', @{ $self->{pids} }; close $_ for @{ $self->{counts} } }

sub greedy_client {
    my ($s) = @_;
    my $client = Hybrid::Client->new($s->port);
    $client->socket->setsockopt(SOL_SOCKET, SO_SNDBUF, pack 'i', 65_536); # else the kernel takes hundreds of thousands
    pipe my $may_go_on, my $stop or die "pipe: $!";
    my $self = bless { stop => $stop, pids => [], counts => [] }, 'Greedy';
    for my $work (sub { # writes as fast as it is read
        my $sent = 0;
        $sent += 100 while !IO::Select->new($may_go_on)->can_read(0) && $client->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" x 100);
        $client->half_close;
        return $sent;
    }, sub { # and reads all there is
        my ($answers, $text) = (0, '');
        while (sysread $client->socket, $text, 65_536, length $text) {
            $answers += () = $text =~ m{^HTTP/1\.1 200 }mg;
            $text =~ s/\A.*\n//s; # but the beginning of another line
        }
        return $answers;
    }) {
        my $pid = open(my $count, '-|') // die "fork: $!";
        if ($pid == 0) {
            close $stop;
            syswrite STDOUT, $work->();
            POSIX::_exit(0);
        }
        push @{ $self->{pids} }, $pid;
        push @{ $self->{counts} }, $count;
    }
    return $self;
}

subtest 'K24: a pipelining client lets others in between' => sub {
    plan skip_all => 'event goes on with it to the end' if $mpm ne 'hybrid';
    my $s = server("StartServers 1\nServerLimit 1\nThreadsPerChild 1\nMaxRequestWorkers 1\nMinSpareThreads 1\nMaxSpareThreads 1",
        'MaxKeepAliveRequests 0'); # one worker: nobody else could help out
    my $other = Hybrid::Client->new($s->port);
    $other->get('/');
    my $greedy = greedy_client($s);
    is scalar(grep { $other->get('/')->{body} eq "hello\n" } 1 .. 20), 20, 'twenty requests of another are answered beside one without an end';
    # All twenty are there when the first is answered: each answer says how many there have been in all by then.
    my ($between, $most);
    wait_for(sub {
        $other->send("GET /server-status?auto HTTP/1.1\r\nHost: x\r\n\r\n" x 20);
        my @all = map { $other->response->{body} =~ /^Total Accesses: (\d+)/m } 1 .. 20;
        ($between) = ($all[-1] - $all[0]) - 19;
        ($most) = sort { $b <=> $a } $most // 0, map { $all[$_] - $all[ $_ - 1 ] - 1 } 1 .. 19;
        return $between > 0;
    }, 20);
    cmp_ok $between, '>', 0, "and of its own in between: $between";
    cmp_ok $most, '<=', 8, "no more than eight in a row: $most";
    my ($sent, $answers) = $greedy->stop;
    cmp_ok $sent, '>', 100, "when it ends, after $sent requests,";
    is $answers, $sent, 'all of its own are answered';
};

subtest 'nobody starves' => sub {
    my $s = server("StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 75", 'MaxKeepAliveRequests 0');
    my $count = 128;
    my $request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. $count;
    my %number = map { fileno($clients[$_]->socket) => $_ } 0 .. $#clients;
    my $select = IO::Select->new(map { $_->socket } @clients);
    $_->send($request) for @clients;
    my @seconds;
    my $begin = monotonic();
    while ((my $second = int(monotonic() - $begin)) < 3) {
        for my $socket ($select->can_read(1)) {
            my $client = $clients[ $number{ fileno $socket } ];
            if (!eval { $client->response; 1 }) { # event closes idle ones when it is busy
                fail "an answer: $@" if $mpm eq 'hybrid';
                $select->remove($socket);
                next;
            }
            $seconds[$second]{ fileno $socket }++;
            $client->send($request);
        }
    }
    for my $second (0 .. 2) {
        is scalar(keys %{ $seconds[$second] }), $count, "every client gets answers in second $second" if $mpm eq 'hybrid';
    }
    cmp_ok scalar(@seconds), '==', 3, 'measured for three seconds';
};

subtest 'an idle server sleeps' => sub {
    plan skip_all => 'ThreadSanitizer has a thread that wakes up' if Hybrid::Sanitizer::sanitizer() eq 'tsan';
    my $s = server($one_child);
    $s->get('/') for 1 .. 3;
    my $switches = sub {
        my $sum = 0;
        for my $file (map { glob "/proc/$_/task/*/status" } $s->children) {
            $sum += $1 if Hybrid::Server::slurp($file) =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
        }
        return $sum;
    };
    my $quiet = wait_for(sub { my $before = $switches->(); select undef, undef, undef, 3; $switches->() - $before <= 3 }, 20);
    ok $quiet, 'no more than one wake-up per second' if $mpm eq 'hybrid';
    ok $s->get('/'), 'it is still there';
};

done_testing;
