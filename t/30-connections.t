# SPDX-License-Identifier: Apache-2.0
# One connection at a time: every state it can be in, its timeouts, and how it ends (parity S, H22, R13, K01).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker has no such states' if $mpm eq 'worker';

my $small = "StartServers 1\nThreadsPerChild %d\nMaxRequestWorkers %d\nMinSpareThreads 1\nMaxSpareThreads 64";

sub server {
    my ($threads, $conf, %option) = @_;
    return Hybrid::Server->new(probe => 1, mpm_conf => sprintf($small, $threads, $threads), conf => $conf, %option);
}

sub request { my ($path, @more) = @_; return join("\r\n", "GET $path HTTP/1.1", 'Host: localhost', @more) . "\r\n\r\n" }

subtest 'S13: keep-alive and pipelining' => sub {
    my $s = server(4, "MaxKeepAliveRequests 5\nKeepAliveTimeout 30")->start;
    my $client = Hybrid::Client->new($s->port);
    is $client->get('/')->{header}{connection}, undef, "request $_ is kept alive" for 1 .. 5;
    is $client->get('/')->{header}{connection}, 'close', 'MaxKeepAliveRequests is kept';
    ok $client->is_closed(5), 'and the connection closed';

    $client = Hybrid::Client->new($s->port);
    $client->send(join '', map { request("/conn?$_") } 1 .. 4);
    is join(' ', map { $client->response->{body} =~ /keepalives=(\d)/ } 1 .. 4), '0 1 2 3', 'four requests in one segment';
    $client = Hybrid::Client->new($s->port);
    my $both = request('/conn') . request('/');
    $client->send(substr $both, 0, length($both) - 10);
    is $client->response->{status}, 200, 'the first of one and a half requests is answered';
    $client->send(substr $both, -10);
    is $client->response->{body}, "hello\n", 'and the second when the rest comes';
    $client = Hybrid::Client->new($s->port);
    $client->send(request('/', 'Connection: close'));
    is $client->response->{header}{connection}, 'close', 'Connection: close';
    ok $client->is_closed(5), 'closes';
    $client = Hybrid::Client->new($s->port);
    $client->send("GET / HTTP/1.0\r\n\r\n");
    is $client->response->{body}, "hello\n", 'HTTP/1.0';
    ok $client->is_closed(5), 'closes';
};

subtest 'S04: a client that resets' => sub {
    my $s = server(2, '');
    $s->file('big', 'x' x 5_000_000);
    $s->start;
    for (1 .. 6) {
        my $client = Hybrid::Client->new($s->port, rcvbuf => 65536);
        $client->send(request('/big'));
        $client->read_until(qr/\r\n\r\n/);
        $client->reset;
    }
    is $s->get('/')->{status}, 200, 'holds nobody';
    ok wait_for(sub { $s->status->{ConnsTotal} <= 1 }, 10), 'and is forgotten';
};

subtest 'S18: a refused upload gets its answer while it is still sending' => sub {
    my $s = server(4, "LimitRequestBody 1000")->start;
    my $client = Hybrid::Client->new($s->port);
    $client->send("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" . 'x' x 20_000);
    my $sent = 0;
    for (1 .. 40) { last if !$client->send('x' x 10_000); $sent++ }
    my $answer = $client->response;
    is $answer->{status}, 413, 'the whole 413';
    like $answer->{body}, qr/Request Entity Too Large/i, 'with its page';
    cmp_ok $sent, '>', 2, 'although more was on its way';
    $client->disconnect;
    ok wait_for(sub { $s->status->{ConnsAsyncClosing} == 0 }, 10), 'the lingering close ends with the client';
    my $silent = Hybrid::Client->new($s->port);
    $silent->send("POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n" . 'x' x 40_000);
    is $silent->response->{status}, 413, 'a client that stays';
    my $closing = wait_for(sub { $s->status->{ConnsAsyncClosing} }, 5);
    is $closing, 1, 'is waited for' if $mpm eq 'hybrid'; # event's count is old by then (K17)
    for (1 .. 3) {
        $silent->send('x' x 5_000);
        $s->get('/'); # the listener has been round
    }
    ok $silent->send('x' x 5_000), 'it can still send';
    is $s->status->{ConnsAsyncClosing}, 1, 'and is waited for while it does' if $mpm eq 'hybrid';
};

subtest 'S11: slow readers of a large file hold no worker (EnableSendfile On)' => sub {
    my $s = server(2, "EnableSendfile On\nTimeout 20");
    $s->file('big', 'x' x 20_000_000);
    $s->start;
    my @slow = map {
        my $client = Hybrid::Client->new($s->port, rcvbuf => 65536);
        $client->send(request('/big'));
        $client->read_until(qr/\r\n\r\n/);
        $client;
    } 1 .. 4;
    is $s->get('/')->{body}, "hello\n", 'four of them, two workers, and another is served';
    ok wait_for(sub { $s->status->{ConnsAsyncWriting} == 4 }, 5), 'mod_status shows them' if $mpm eq 'hybrid';
    is length $slow[0]->read_bytes(20_000_000, 30), 20_000_000, 'one reads on to the end';
};

subtest 'S12: a stalled reader is given up after Timeout' => sub {
    my $s = server(2, "EnableSendfile On\nTimeout 2");
    $s->file('big', 'x' x 20_000_000);
    $s->start;
    my $client = Hybrid::Client->new($s->port, rcvbuf => 65536);
    $client->send(request('/big'));
    $client->read_until(qr/\r\n\r\n/);
    my $port = $client->socket->sockport;
    my $gone = sub { grep { $_->{hook} eq 'conn_gone' && $_->{conn} eq "127.0.0.1:$port" } $s->probe };
    my $begin = monotonic();
    ok wait_for($gone, 20), 'its connection is gone';
    cmp_ok monotonic() - $begin, '>', 1.5, 'not before Timeout';
};

subtest 'S14, S22, H22: timeouts by virtual host' => sub {
    my $s = server(4, <<'CONF')->start;
KeepAliveTimeout 1
Listen 127.0.0.1:@PORT2@
<VirtualHost 127.0.0.1:@PORT2@>
    ServerName first
    KeepAliveTimeout 3
</VirtualHost>
<VirtualHost 127.0.0.1:@PORT2@>
    ServerName second
</VirtualHost>
<VirtualHost 127.0.0.1:@PORT2@>
    ServerName third
    KeepAliveTimeout 500ms
</VirtualHost>
CONF
    my %expected = (main => 1, first => 3, second => 3, third => 0.5);
    my %client;
    for my $host (keys %expected) {
        $client{$host} = Hybrid::Client->new($s->port($host eq 'main' ? 1 : 2));
        is $client{$host}->get('/', host => $host)->{status}, 200, "$host answers";
        $client{$host}{begin} = monotonic();
    }
    my %closed; # each seen when it happens
    wait_for(sub {
        $closed{$_} //= monotonic() for grep { $client{$_}->is_closed(0.001) } grep { !$closed{$_} } keys %client;
        keys %closed == keys %client;
    }, 15);
    for my $host (sort keys %expected) {
        ok $closed{$host}, "$host closes" or next;
        my $took = $closed{$host} - $client{$host}{begin};
        cmp_ok $took, '>', $expected{$host} - 0.15, "$host: not before its KeepAliveTimeout";
        cmp_ok $took, '<', $expected{$host} + 1.5, "$host: soon after it";
    }
};

subtest 'K01, S42: all workers busy' => sub {
    my $s = server(2, 'KeepAliveTimeout 30')->start;
    my $waiting = Hybrid::Client->new($s->port);
    my $idle = Hybrid::Client->new($s->port);
    $_->get('/') for $waiting, $idle;
    my @busy = $s->hold(2_500, 2);
    $waiting->send("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    if ($mpm eq 'hybrid') {
        is $waiting->response->{body}, "read 5\n", 'a request on a kept-alive connection waits and is answered';
        is $idle->get('/')->{status}, 200, 'an idle one stays';
    }
    else {
        my $answer = eval { $waiting->response };
        ok !$answer, 'difference: it is closed without an answer';
        ok $idle->is_closed(5), 'and so are idle ones';
    }
    is $_->response->{status}, 200, 'those in work are answered' for @busy;
};

subtest 'S40, S41: AsyncRequestWorkerFactor' => sub {
    my $s = server(4, "KeepAliveTimeout 60\nAsyncRequestWorkerFactor 2")->start;
    my @idle;
    for (1 .. 12) {
        my $client = Hybrid::Client->new($s->port);
        push @idle, $client;
        last if !eval { $client->get('/', limit => 2) };
    }
    is scalar(@idle), 12, '4 threads, factor 2: twelve idle connections are held';
    my $late = Hybrid::Client->new($s->port);
    $late->send(request('/'));
    my $answered = eval { $late->response(limit => 1) };
    if ($mpm eq 'hybrid') {
        is $answered->{status}, 200, 'and any number more: an idle connection needs no worker';
        push @idle, map { my $client = Hybrid::Client->new($s->port); $client->get('/'); $client } 1 .. 60;
        is $_->get('/')->{status}, 200, 'all of them' for @idle[ 0, 30, 70 ];
    }
    else {
        ok !$answered, 'difference: the thirteenth waits';
        (shift @idle)->disconnect for 1 .. 4; # room for one worker's share more than it gave before
        is $late->response(limit => 10)->{status}, 200, 'until there is room';
    }
};

sub with_port {
    my ($mode, $conf) = @_;
    return server(2, "Listen 127.0.0.1:\@PORT2\@ probe\nHybridProbePort \@PORT2\@ $mode\nTimeout 2\n" . ($conf // ''))->start;
}

subtest 'S01, S25: modules that never look at the state, and speak first' => sub {
    my $s = with_port('speaks-first');
    my $client = Hybrid::Client->new($s->port(2));
    is $client->read_until(qr/\r\n/), "200 hello\r\n", 'greets without being asked';
    $client->send("echo\r\n");
    is $client->read_until(qr/\r\n/), "echo\r\n", 'answers';
    $client->send("quit\r\n");
    ok $client->is_closed(5), 'and is closed at the end';
    $s = with_port('untouched');
    $client = Hybrid::Client->new($s->port(2));
    ok $client->is_closed(5), 'untouched state: closed';
    is $client->buffered, "untouched\r\n", 'after its words';
};

subtest 'S02, S03: what modules may leave in the state' => sub {
    my $s = with_port('keepalive');
    my $client = Hybrid::Client->new($s->port(2));
    for (1 .. 2) {
        is $client->read_until(qr/\r\n/), "keepalive\r\n", 'KEEPALIVE: kept, and called again when there is input';
        $client->send("more\r\n");
    }
    ok $client->is_closed(5), 'then closed';
    for my $mode (qw(handler error)) {
        $s = with_port($mode);
        $client = Hybrid::Client->new($s->port(2));
        ok $client->is_closed(5), "$mode: closed";
        like $s->log, qr/AH10111: process_socket: connection processing returned/, 'and noted in event\'s words';
    }
    $s = with_port('refuse');
    ok +Hybrid::Client->new($s->port(2))->is_closed(5), 'R13: pre_connection refuses: closed';
    ok wait_for(sub { grep { $_->{hook} eq 'conn_gone' } $s->probe }, 5), 'and gone';
    is $s->get('/')->{status}, 200, 'others go on';
};

subtest 'S10: waiting for input without a worker' => sub {
    my $why = Hybrid::Server::no_waitio();
    plan skip_all => $why if $why;
    my $s = with_port('waitio');
    my @waiting = map { Hybrid::Client->new($s->port(2)) } 1 .. 4;
    is $_->read_until(qr/\r\n/), "waiting\r\n", 'four wait' for @waiting;
    is $s->get('/')->{status}, 200, 'on two workers, and another is served';
    is $s->status->{ConnsAsyncWaitIO}, 4, 'mod_status shows them' if $mpm eq 'hybrid';
    $waiting[0]->send("go\r\n");
    is $waiting[0]->read_until(qr/\r\n/), "ready\r\n", 'input brings one back';
    my $begin = monotonic();
    ok $waiting[1]->is_closed(10), 'the others are closed';
    cmp_ok monotonic() - $begin, '<', 6, 'after Timeout';
};

subtest 'S16: suspended, and let go by a timed callback' => sub {
    plan skip_all => 'event forgets such a connection (K03)' if $mpm ne 'hybrid';
    my $s = with_port('suspend');
    my @held = map { Hybrid::Client->new($s->port(2)) } 1 .. 4;
    is $_->read_until(qr/\r\n/), "suspended\r\n", 'four are held' for @held;
    is $s->get('/')->{status}, 200, 'on two workers, and another is served';
    for my $client (@held) {
        ok $client->is_closed(10), 'each comes back and is closed';
        $client->disconnect;
    }
    ok wait_for(sub { $s->status->{ConnsTotal} == 1 }, 10), 'none is left';
};

done_testing;
