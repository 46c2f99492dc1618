# SPDX-License-Identifier: Apache-2.0
# Idle connections give their memory back, and nobody can tell: counts, timeouts, logs and what comes next are as if they had not
# (K08). Those that could tell stay awake.

use strict;
use warnings;
use FindBin;
use Test::More;
use Hybrid::Client;
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm has no such thing" if $mpm ne 'hybrid';

sub server {
    my ($conf, %option) = @_;
    return Hybrid::Server->new(level => 'info mpm_hybrid:trace6', conf => $conf, limits => { nofile => 4_000 }, modules => ['reqtimeout'],
        mpm_conf => "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 64", %option);
}

# $count connections have gone to sleep since the server was started.
sub asleep { my ($s, $count) = @_; return wait_for(sub { my $n = () = $s->log =~ /goes to sleep/g; $n >= $count }, 10) }

# kB that the server's processes have, shared pages divided.
sub memory {
    my ($s) = @_;
    my $sum = 0;
    for ($s->pid, $s->children) { $sum += $1 if Hybrid::Server::slurp("/proc/$_/smaps_rollup") =~ /^Pss:\s+(\d+)/m }
    return $sum;
}

sub idle_clients { my ($s, $count) = @_; return map { my $c = Hybrid::Client->new($s->port); $c->get('/'); $c } 1 .. $count }

subtest 'memory' => sub {
    for my $on ('On', 'Off') {
        my $s = server("KeepAliveTimeout 100\nMaxKeepAliveRequests 0\nDormantConnections $on", level => 'notice')->start;
        my @warm = idle_clients($s, 50);
        my $before = memory($s);
        my @clients = idle_clients($s, 1_000);
        if ($on eq 'On') {
            my $most = Hybrid::Sanitizer::sanitizer() ? 20_000 : 1_500; # a sanitizer has some of its own
            ok wait_for(sub { memory($s) - $before < $most }, 10), "a thousand idle clients: less than $most kB" or diag memory($s) - $before;
        }
        else {
            cmp_ok memory($s) - $before, '>', 4_000, 'switched off: more than 4 kB each';
        }
        is scalar(grep { $_->get('/')->{body} eq "hello\n" } @clients), 1_000, 'all are answered';
    }
};

# Giving memory back to the system takes a while, in which nobody should have to wait (W44).
subtest 'who gives it back' => sub {
    plan skip_all => 'the C library has no malloc_trim()' if Hybrid::Server::slurp("$ENV{HYBRID_TOP}/build/config.mk") !~ /HAVE_MALLOC_TRIM/;
    my $s = server("KeepAliveTimeout 100\nMaxKeepAliveRequests 0", level => 'notice');
    my ($shim, $log) = map { $s->root . "/$_" } qw(trim_shim.so trims);
    system('cc', '-shared', '-fPIC', '-o', $shim, "$FindBin::Bin/c-modules/trim_shim.c") == 0 or die 'cc';
    chmod 0755, $shim;
    $s->{env} = { LD_PRELOAD => $shim, TRIM_LOG => $log };
    $s->start;
    my @clients = idle_clients($s, 150);
    my @trims;
    ok wait_for(sub { @trims = split /\n/, Hybrid::Server::slurp($log) }, 20), 'many have gone to sleep: malloc_trim() is called';
    my ($pid, $tid) = split ' ', $trims[0] // '0 1';
    is $tid, $pid, 'by the main thread of the child';
    is join(' ', $s->children), $pid, 'which polls for nobody';
    is scalar(grep { $_->get('/')->{body} eq "hello\n" } @clients), 150, 'the clients are served';
};

subtest 'nobody can tell' => sub {
    my $s = server(<<'CONF');
KeepAliveTimeout 30
MaxKeepAliveRequests 4
LogFormat "%k %X %a %{local}p" kept
CustomLog @ROOT@/logs/kept kept
CONF
    $s->start;
    my $client = Hybrid::Client->new($s->port);
    for my $round (1 .. 3) {
        is $client->get('/')->{header}{connection}, undef, "request $round is kept alive";
        ok asleep($s, $round), 'and the connection goes to sleep';
    }
    is $client->get('/')->{status}, 200, 'request 4';
    is $client->get('/')->{header}{connection}, 'close', 'MaxKeepAliveRequests is kept';
    ok $client->is_closed(5), 'closed';
    my $port = $s->port;
    my @lines = split /\n/, Hybrid::Server::slurp($s->root . '/logs/kept');
    is_deeply [ @lines[ -5 .. -1 ] ], [ map { "$_ 127.0.0.1 $port" } '0 +', '1 +', '2 +', '3 -', '4 -' ], 'the log says so, as ever';
};

subtest 'what comes to a sleeper' => sub {
    my $s = server("KeepAliveTimeout 30\nRequestReadTimeout header=1")->start;
    my @clients = idle_clients($s, 6);
    ok asleep($s, 6), 'six of them';
    is $s->status->{ConnsAsyncKeepAlive}, 6, 'mod_status counts them';
    my $mistaken = pop @clients;
    $mistaken->send("\x16\x03\x10\x02\0\x01");
    wait_for(sub { $s->status->{ConnsAsyncKeepAlive} == 5 }, 5); # it has been looked at
    $mistaken->send("\0\n");
    is $mistaken->response->{status}, 400, 'what looks like TLS is none after plain requests';
    $mistaken->disconnect;
    $_->send("GET / HTTP/1.1\r\nHo") for @clients[ 0, 1 ];
    is $clients[0]->response->{status}, 408, 'half a request: 408 in time';
    is $clients[1]->response->{status}, 408, 'both';
    is $s->get('/')->{body}, "hello\n", 'a new one is answered';
    $clients[2]->disconnect;
    ok wait_for(sub { $s->status->{ConnsAsyncKeepAlive} == 2 }, 5), 'one that goes away is forgotten';
    $clients[3]->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" x 2);
    is $clients[3]->response->{body}, "hello\n", "two at once: $_" for 1, 2;
    $s->graceful;
    my $answer = $clients[4]->get('/');
    is "$answer->{status} " . ($answer->{header}{connection} // 'goes on'), '200 goes on', 'its child ends: another has it';
};

subtest 'KeepAliveTimeout, by virtual host' => sub {
    my $s = server(<<'CONF')->start;
KeepAliveTimeout 30
Listen 127.0.0.1:@PORT2@
<VirtualHost 127.0.0.1:@PORT2@>
    KeepAliveTimeout 3
</VirtualHost>
CONF
    my $client = Hybrid::Client->new($s->port(2));
    my $begin = monotonic();
    $client->get('/');
    ok asleep($s, 1), 'asleep';
    ok $client->is_closed(10), 'closed';
    my $kept = monotonic() - $begin;
    ok $kept > 2.9 && $kept < 8, "after KeepAliveTimeout ($kept s)";
};

subtest 'who stays awake' => sub {
    my $s = server("KeepAliveTimeout 30\n" . Hybrid::Server->tls_vhost, modules => [qw(ssl socache_shmcb)]);
    $s->make_certificate;
    $s->start;
    my @awake = (Hybrid::Client->new($s->port), Hybrid::Client->new($s->port(2), tls => 1), Hybrid::Client->new($s->port));
    $awake[0]->get('/', header => "Authorization: Negotiate abc\r\n");
    $awake[1]->get('/');
    $awake[2]->get('/', header => "Authorization: NTLM abc\r\n");
    my $basic = Hybrid::Client->new($s->port);
    $basic->get('/', header => "Authorization: Basic abc\r\n");
    ok asleep($s, 1), 'Basic authentication is with each request';
    is scalar(() = $s->log =~ /goes to sleep/g), 1, 'Negotiate and NTLM are not, and TLS has a session';
    is $_->get('/')->{body}, "hello\n", 'all go on' for @awake, $basic;

    $s = server('KeepAliveTimeout 30', probe => 1)->start;
    like $s->log, qr/HYB0010: idle connections keep their memory: mod_hybrid_probe\.c may keep something there/, 'a module with hooks of its own: nobody sleeps';
    my ($client) = idle_clients($s, 1);
    ok !wait_for(sub { $s->log =~ /goes to sleep/ }, 2.5), 'really';
    is $client->get('/')->{body}, "hello\n", 'and goes on';
};

done_testing;
