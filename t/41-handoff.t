# SPDX-License-Identifier: Apache-2.0
# Connections go from child to child: who is idle when a child ends is served by the next one, and does not notice (K04, K05, K07, K16).
# The probe is not loaded: it keeps connections where they are.

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(start_command run_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm closes idle connections: t/40-reload.t" if $mpm ne 'hybrid';

my $two = "StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 75\n";

sub server {
    my ($mpm_conf, $conf, %option) = @_;
    return Hybrid::Server->new(mpm_conf => $mpm_conf, level => 'info mpm_hybrid:trace6', modules => ['reqtimeout'],
        conf => "KeepAliveTimeout 20\nMaxKeepAliveRequests 0\n" . ($conf // ''), %option);
}

sub clients {
    my ($s, $count) = @_;
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. $count;
    $_->get('/') for @clients;
    return @clients;
}

# The children of before have gone.
sub replaced {
    my ($s, $limit, @old) = @_;
    return wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, $limit);
}

# How many of the clients are answered, by a connection that goes on.
sub kept { scalar grep { my $r = eval { $_->get('/') }; $r && $r->{body} eq "hello\n" && !$r->{header}{connection} } @_ }

subtest 'K04: idle connections across a reload' => sub {
    my $s = server($two)->start;
    my @clients = clients($s, 30);
    my @old = $s->children;
    $s->graceful;
    ok replaced($s, 5, @old), 'the old children need not wait for them';
    is kept(@clients), 30, 'all are answered, and go on';
    is $s->status->{ConnsTotal}, 31, 'and are counted, with the one that asks';
};

subtest 'new ones that have said nothing, or half a word' => sub {
    my $s = server($two, "RequestReadTimeout header=4\n")->start;
    my ($silent, $half, $late) = map { Hybrid::Client->new($s->port) } 1 .. 3;
    my $begin = monotonic();
    $_->send("GET / HTTP/1.1\r\nHo") for $half, $late;
    my @old = $s->children;
    $s->graceful;
    ok replaced($s, 5, @old), 'the old children need not wait for them';
    is $silent->get('/')->{body}, "hello\n", 'who says it now is answered';
    $half->send("st: x\r\n\r\n");
    is $half->response->{body}, "hello\n", 'who completes it, too';
    is $late->response(limit => 10)->{status}, 408, 'who does not hears so';
    my $time = monotonic() - $begin;
    ok $time > 3.9 && $time < 6.5, "when the time from the beginning is over ($time s)";
};

subtest 'what is known of a connection travels along' => sub {
    my $s = server($two, <<'CONF');
LogFormat "%k %X %a %v" kept
CustomLog @ROOT@/logs/kept kept
<VirtualHost *>
    ServerName first
    KeepAliveTimeout 3
    MaxKeepAliveRequests 3
</VirtualHost>
<VirtualHost *>
    ServerName second
    KeepAliveTimeout 30
    MaxKeepAliveRequests 3
</VirtualHost>
CONF
    $s->start;
    my ($first, $second) = map { Hybrid::Client->new($s->port) } 1 .. 2;
    my $reload = sub { my @old = $s->children; $s->graceful; replaced($s, 5, @old) or $s->fail('old children stay') };
    $first->get('/', host => 'first');
    my $begin = monotonic();
    is $second->get('/', host => 'second')->{header}{connection}, undef, 'first request';
    $reload->();
    is $second->get('/', host => 'second')->{header}{connection}, undef, 'second';
    $reload->();
    ok $first->is_closed(10), 'the deadline of idleness';
    my $time = monotonic() - $begin;
    ok $time > 2.9 && $time < 6, "comes when it would have come ($time s)";
    ok !$second->is_closed(2), 'each virtual host has its own';
    is $second->get('/', host => 'second')->{header}{connection}, undef, 'third';
    is $second->get('/', host => 'second')->{header}{connection}, 'close', 'MaxKeepAliveRequests';
    my $kept = sub { join ',', Hybrid::Server::slurp($s->root . '/logs/kept') =~ /^(.*) second$/mg };
    ok wait_for(sub { $kept->() =~ /3 -/ }, 5), 'all are logged';
    is $kept->(), '0 + 127.0.0.1,1 + 127.0.0.1,2 - 127.0.0.1,3 - 127.0.0.1', 'as if it had stayed';
};

subtest 'many at once' => sub {
    my $s = server($two, "KeepAliveTimeout 60\n", limits => { nofile => 4_000 }, level => 'info mpm_hybrid:debug')->start;
    my @clients = clients($s, 1_000);
    for (1 .. 2) {
        my @old = $s->children;
        $s->graceful;
        ok replaced($s, 20, @old), 'a thousand are handed over';
    }
    is kept(@clients), 1_000, 'all are answered';
};

subtest 'C04: MaxConnectionsPerChild' => sub {
    my $s = server("StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 8\nMaxConnectionsPerChild 20")->start;
    my @clients = clients($s, 10);
    my @old = $s->children;
    $s->get('/') for 1 .. 12;
    ok replaced($s, 10, @old), 'the child ends';
    is kept(@clients), 10, 'its clients go on';
};

subtest 'K16: MaxSpareThreads' => sub {
    my $s = server("StartServers 4\nThreadsPerChild 4\nMaxRequestWorkers 16\nMinSpareThreads 1\nMaxSpareThreads 5\nRunTokens 1")->start;
    my @clients = clients($s, 16);
    ok wait_for(sub { $s->children == 1 }, 60), 'children that are not needed end';
    is kept(@clients), 16, 'all clients go on with the one that stays';
};

subtest 'K06: nobody takes over from a server that stops gracefully' => sub {
    my $s = server($two, "KeepAliveTimeout 2\n")->start;
    my @clients = clients($s, 4);
    $s->signal('WINCH');
    $s->wait_log(qr/AH00492/);
    my $last = wait_for(sub { ($clients[0]->get('/')->{header}{connection} // '') eq 'close' }, 5); # children hear of it after the log
    ok $last, 'an answer says that it is the last';
    ok $clients[1]->is_closed(10), 'idle ones end at KeepAliveTimeout';
    ok wait_for(sub { !$s->alive }, 10), 'and then the server';
};

# Such a program ends with the configuration that started it (t/40-reload.t): nobody may meet a child that has lost it.
subtest 'programs that the configuration starts' => sub {
    my $s = server($two, <<'CONF', modules => ['rewrite']);
RewriteEngine On
RewriteMap next prg:@DOCS@/next
RewriteRule ^/map/(.*)$ /${next:$1} [L]
CONF
    $s->file('next', "#!/usr/bin/perl\n\$| = 1;\nwhile (<STDIN>) { chomp; print \"file\$_\\n\" }\n", 0755);
    $s->file('file1', "one\n");
    $s->start;
    my @clients = clients($s, 20);
    for (1 .. 3) {
        my @old = $s->children;
        $s->graceful;
        is scalar(grep { my $r = eval { $_->get('/map/1') }; $r && $r->{body} eq "one\n" && !$r->{header}{connection} } @clients), 20,
            'idle connections are answered by those who have it';
        ok replaced($s, 5, @old), 'the old children are gone';
    }
};

subtest 'a new generation that never comes up' => sub {
    my $s = server($two, "\@BROKEN\@\n");
    my $good = $s->conf_text;
    (my $fine = $good) =~ s/\@BROKEN\@//;
    $s->write_conf($fine);
    $s->start;
    my @clients = clients($s, 4);
    my @old = $s->children;
    # Its children can't change to this user's group: they die at once.
    $s->write_conf($fine . "ThreadStackSize 1000000000000\n");
    $s->graceful;
    ok wait_for(sub { $s->log =~ /AH03104/ }, 10), 'its children fail';
    is kept(@clients), 4, 'the former one serves on';
    $s->write_conf($fine);
    $s->graceful;
    ok replaced($s, 10, @old), 'until there is a better one';
    is kept(@clients), 4, 'which takes the clients over';
};

# A handler that sleeps, and needs no probe.
sub slow_server {
    my ($mpm_conf, $conf, $seconds) = @_;
    $seconds //= 1;
    my $s = server($mpm_conf, "ScriptSock \@ROOT\@/run/cgisock\n<Directory \@DOCS\@>\n Options +ExecCGI\n AddHandler cgi-script .cgi\n</Directory>\n"
            . ($conf // ''), modules => ['cgid'], level => 'info mpm_hybrid:debug');
    $s->file('slow.cgi', "#!/bin/sh\nsleep $seconds\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' slow\n", 0755);
    return $s->start;
}

# Children that serve: those that mod_cgid's daemon is not.
sub serving { my ($s) = @_; return $s->log =~ /Child \d+ started: pid (\d+)/g }

subtest 'all clients in one child, and all its workers blocked' => sub {
    my $s = slow_server("StartServers 1\nThreadsPerChild 10\nMaxRequestWorkers 60\nMinSpareThreads 10\nMaxSpareThreads 60",
        "LogFormat \"%{usec}t %D %U\" times\nCustomLog \@ROOT\@/logs/times times\n", 2);
    my @clients = clients($s, 25); # one child is enough for them, while they are idle
    is scalar(serving($s)), 1, 'one child';
    $_->send("GET /slow.cgi HTTP/1.1\r\nHost: x\r\n\r\n") for @clients;
    is scalar(grep { $_->response->{body} eq "slow\n" } @clients), 25, 'all are answered';
    # When a worker had read it, and when it was answered. (How long all take says nothing: so many programs start at once.)
    my $times = sub { return [ Hybrid::Server::slurp($s->root . '/logs/times') =~ m{^(\d+) (\d+) /slow}mg ] };
    ok wait_for(sub { @{ $times->() } == 50 }, 10), 'and logged';
    my %end = @{ $times->() };
    my ($last) = sort { $b <=> $a } keys %end;
    my ($first) = sort { $a <=> $b } map { $_ + $end{$_} } keys %end;
    cmp_ok $last, '<', $first, 'the last has a worker before the first is answered';
    cmp_ok kept(@clients), '==', 25, 'and go on';
};

subtest 'K11: all workers are blocked, and nothing is elsewhere: deadlines are kept, and who waits is answered' => sub {
    my $s = slow_server("StartServers 1\nThreadsPerChild 2\nMaxRequestWorkers 2\nMinSpareThreads 1\nMaxSpareThreads 64", "KeepAliveTimeout 2\n");
    my ($idle, $next, @busy) = clients($s, 6);
    my $begin = monotonic();
    for my $client (@busy) { $client->send("GET /slow.cgi HTTP/1.1\r\nHost: x\r\n\r\n") }
    $next->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    ok $idle->is_closed(10), 'an idle one is closed at its KeepAliveTimeout';
    is scalar(grep { $_->response->{status} == 200 } @busy, $next), 5, 'those that wait are answered';
};

subtest 'K07: downloads that hold former generations take no slot from the next, and none of its workers' => sub {
    my $s = server("StartServers 2\nServerLimit 4\nThreadsPerChild 2\nMaxRequestWorkers 8\nMinSpareThreads 1\nMaxSpareThreads 8",
        "ListenBacklog 511\n", level => 'info mpm_hybrid:debug');
    $s->file('big', 'x' x 8_000_000);
    $s->start;
    my @downloads;
    for (1 .. 10) {
        my $client = Hybrid::Client->new($s->port, rcvbuf => 65_536);
        $client->send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
        $client->read_until(qr/\r\n\r\n/);
        push @downloads, $client;
        $s->graceful;
        ok wait_for(sub { eval { $s->status->{ParentServerMPMGeneration} } == @downloads }, 10), 'generation ' . @downloads . ' serves';
    }
    my @children = $s->children;
    cmp_ok scalar(@children), '>', 8, 'more children than slots: ' . @children;
    ok wait_for(sub { $s->status->{IdleWorkers} >= 3 }, 10), 'of which the last generation has enough';
    like $s->log, qr/HYB0011: child \d+ \(generation \d+\) ends without a slot/, 'the log says how';
    is scalar(grep { length($_->read_bytes(8_000_000)) == 8_000_000 } @downloads), 10, 'all downloads come to their end';
    ok wait_for(sub { $s->children <= 4 }, 20), 'then their children, too';
    $s->wait_log(qr/Child without a slot stopped: pid \d+, gen \d+/);
    pass 'and the log says so (W32)';
    unlike $s->log, qr/:(?:error|crit|alert|emerg)\]/, 'the log is quiet';
    my $client = Hybrid::Client->new($s->port, rcvbuf => 65_536);
    $client->send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    $client->read_until(qr/\r\n\r\n/);
    $s->graceful for 1 .. 3;
    push @children, $s->children;
    cmp_ok $s->stop, '<', 8, 'a stop ends those without a slot, too';
    ok wait_for(sub { !grep { Hybrid::Server::_alive($_) } @children }, 5), 'all of them';
};

subtest 'storms: twenty reloads in two seconds' => sub {
    my $s = server($two)->start;
    my @clients = clients($s, 20);
    my $fds = sub { return scalar(() = glob "/proc/$s->{pid}/fd/*") };
    my $before = $fds->();
    my ($kept, $asked) = (0, 0);
    for (1 .. 20) {
        $s->signal('USR1');
        my $end = monotonic() + 0.1;
        while (monotonic() < $end) {
            push @clients, shift @clients;
            $asked++;
            my $r = eval { $clients[0]->get('/') };
            $kept++ if $r && $r->{body} eq "hello\n";
            $clients[0] = Hybrid::Client->new($s->port) if $r && $r->{header}{connection};
        }
    }
    is $kept, $asked, "all of $asked requests are answered";
    ok wait_for(sub { my $status = eval { $s->status }; $status && $status->{Stopping} == 0 && $status->{Processes} <= 3 }, 20),
        'one generation is left';
    is $fds->(), $before, 'the parent has as many descriptors as before';
    unlike $s->log, qr/:(?:error|crit|alert|emerg)\]/, 'and the log is quiet';
};

# A child that has left its slot finds its successor there, and perhaps nobody else.
subtest 'a child whose slot has gone to the only other one hands its clients over' => sub {
    my $s = server("StartServers 1\nServerLimit 1\nThreadsPerChild 2\nMaxRequestWorkers 2\nMinSpareThreads 1\nMaxSpareThreads 2\n",
        "KeepAliveTimeout 60\nTimeout 30\n")->start;
    my ($idle) = clients($s, 1);
    wait_for(sub { $s->log =~ /goes to sleep/ }, 5) or die 'it does not go to sleep';
    my @busy = map { # a body that does not end holds its worker
        my $client = Hybrid::Client->new($s->port);
        $client->send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" . 'x' x 60_000);
        $client;
    } 1 .. 2;
    $s->graceful;
    ok wait_for(sub { $s->log =~ /HYB0011/ }, 10), 'the former child leaves its slot';
    is eval { $idle->get('/', limit => 8)->{status} }, 200, 'its idle client is answered by the next one';
    $_->disconnect for @busy;
};

done_testing;
