# SPDX-License-Identifier: Apache-2.0
# Reloads and recycled children under load: nobody loses a request (parity K04, C04, X13, X27).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(wrk wrk_result start_command run_command);
use Hybrid::Server;
use Hybrid::Wait;
use List::Util qw(min);

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker has no idle connections to lose' if $mpm eq 'worker';

# A client process: GET and POST by turns on one kept-alive connection, a pause between, until told to stop. A close is
# honest when the answer before had said so; an honest close is followed by a new connection. Prints what it saw.
sub keepalive_client {
    my ($s, $seconds) = @_;
    my $pid = open(my $out, '-|') // die "fork: $!";
    return $out if $pid;
    my %seen = (answered => 0, failed => 0, silent => 0, announced => 0);
    my $end = monotonic() + $seconds;
    my $client;
    while (monotonic() < $end) {
        $client ||= eval { Hybrid::Client->new($s->port) };
        if (!$client) { $seen{failed}++; next }
        if ($client->is_closed(0.02)) { $seen{silent}++; undef $client; next } # the pause; nobody announced it
        my $body = 'x' x 500;
        $client->send($seen{answered} % 2 ? "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            : "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n$body");
        my $response = eval { $client->response(limit => 20) };
        if (!$response || $response->{status} != 200) { $seen{failed}++; undef $client; next }
        $seen{answered}++;
        if (($response->{header}{connection} // '') eq 'close') { $seen{announced}++; undef $client }
    }
    print join(' ', map { "$_=$seen{$_}" } sort keys %seen), "\n";
    close STDOUT;
    POSIX::_exit(0);
}

sub sum {
    my %sum;
    for my $out (@_) {
        my $line = <$out> // '';
        $sum{$1} += $2 while $line =~ /(\w+)=(\d+)/g;
        close $out;
    }
    return \%sum;
}

sub server {
    my ($mpm_conf, $more) = @_;
    return Hybrid::Server->new(probe => 1, mpm_conf => $mpm_conf, level => 'info',
        conf => "KeepAliveTimeout 5\nMaxKeepAliveRequests 0\n" . ($more // ''))->start;
}

my $usual = "StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 75";

subtest 'K04: an idle connection across a reload' => sub {
    my $s = server($usual);
    my $client = Hybrid::Client->new($s->port);
    $client->get('/');
    my @old = $s->children;
    $s->graceful;
    if ($mpm eq 'hybrid') {
        ok !$client->is_closed(1), 'stays open';
        my $answer = $client->get('/');
        is $answer->{status}, 200, 'its next request is answered';
        is $answer->{header}{connection}, 'close', 'and told that it was the last here';
    }
    else {
        ok $client->is_closed(3), 'difference: is closed without a word';
    }
    ok wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, 15), 'the old children go';
};

subtest 'K04: an idle connection that says nothing holds an old child for KeepAliveTimeout at most' => sub {
    my $s = server($usual, 'KeepAliveTimeout 2');
    my $client = Hybrid::Client->new($s->port);
    $client->get('/');
    my @old = $s->children;
    $s->graceful;
    ok wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, 10), 'the old children go';
    ok $client->is_closed(5), 'so does the connection';
};

subtest 'out of slots: idle connections give way to the new generation' => sub {
    my $s = server("StartServers 2\nServerLimit 2\nThreadsPerChild 4\nMaxRequestWorkers 8\nMinSpareThreads 1\nMaxSpareThreads 8",
        'KeepAliveTimeout 60');
    my @clients = map { my $c = Hybrid::Client->new($s->port); $c->get('/'); $c } 1 .. 6;
    my $begin = monotonic();
    $s->signal('USR1');
    $s->wait_log(qr/AH00493/);
    ok wait_for(sub { my $status = eval { $s->status }; $status && $status->{ParentServerMPMGeneration} == 1 && $status->{Stopping} == 0 }, 20),
        'the new generation serves';
    cmp_ok monotonic() - $begin, '<', 15, 'long before KeepAliveTimeout';
};

subtest 'X27: clients with a pause, GET and POST, and a reload every half second' => sub {
    my $s = server($usual);
    my @outs = map { keepalive_client($s, 5) } 1 .. 12;
    for (1 .. 8) { $s->graceful; select undef, undef, undef, 0.4 } # the pace of the load, not a wait for anything
    my $sum = sum(@outs);
    cmp_ok $sum->{answered}, '>', 500, 'requests were answered';
    if ($mpm eq 'hybrid') {
        is $sum->{failed}, 0, 'none failed';
        is $sum->{silent}, 0, 'no connection was closed without a word';
        cmp_ok $sum->{announced}, '>', 12, 'closes were announced';
    }
    else {
        cmp_ok $sum->{silent} + $sum->{failed}, '>', 0, 'difference: connections were closed without a word';
    }
    unlike $s->log, qr/:(?:error|crit|alert|emerg)\]/, 'and the log is quiet';
};

subtest 'X27: thirty reloads under full load leak nothing' => sub {
    my $s = server($usual);
    my $count = sub { return scalar(() = glob "/proc/$s->{pid}/fd/*") };
    $s->graceful;
    my $before = $count->();
    my $load = start_command(25, 'wrk', '-t1', '-c32', '-d6s', $s->url('/'));
    for (1 .. 30) { $s->graceful }
    my $result = wrk_result($load->());
    cmp_ok $result->{requests}, '>', 500, 'requests were answered';
    is $result->{errors}, 0, 'none was lost' if $mpm eq 'hybrid';
    is $result->{bad}, 0, 'none failed';
    ok wait_for(sub { $s->status->{Stopping} == 0 && $s->status->{Processes} <= 6 }, 20), 'no child is left of former generations';
    is $count->(), $before, 'the parent has as many descriptors as before';
    is $s->status->{ParentServerMPMGeneration}, 31, 'each was a generation';
};

subtest 'C04: MaxConnectionsPerChild counts connections, and nobody notices' => sub {
    my $s = server("$usual\nMaxConnectionsPerChild 40");
    my $first = join ' ', $s->children;
    my $client = Hybrid::Client->new($s->port);
    is $client->get('/')->{status}, 200, 'requests on one connection are not counted' for 1 .. 3;
    my @outs = map { keepalive_client($s, 3) } 1 .. 4;
    my $end = monotonic() + 3;
    my ($connections, $failed) = (0, 0);
    while (monotonic() < $end) {
        my $answer = eval { $s->get('/') };
        $connections++;
        $failed++ if !$answer || $answer->{status} != 200;
    }
    my $sum = sum(@outs);
    cmp_ok $connections, '>', 80, 'enough connections for two children';
    is $failed, 0, 'all were answered';
    is $sum->{failed}, 0, 'all kept-alive requests, too' if $mpm eq 'hybrid';
    isnt join(' ', $s->children), $first, 'children were replaced';
};

subtest 'GracefulRestartTimeout' => sub {
    plan skip_all => "$mpm has no such thing" if $mpm ne 'hybrid';
    my $s = server($usual, 'GracefulRestartTimeout 2');
    $s->file('big', 'x' x 8_000_000);
    my $handler = $s->hold(30_000);
    my $reader = Hybrid::Client->new($s->port, rcvbuf => 65_536);
    $reader->send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    $reader->read_until(qr/\r\n\r\n/);
    my @old = $s->children;
    $s->graceful;
    my $begin = monotonic();
    ok wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, 20), 'the old children go';
    cmp_ok monotonic() - $begin, '>', 1.5, 'when it is over';
    my $who = qr/mpm_hybrid:warn\].*HYB0012: GracefulRestartTimeout is over, ending without waiting for client 127\.0\.0\.1:\d+, host localhost/;
    like $s->log, qr{$who\S*, request "GET /sleep\?ms=30000 HTTP/1\.1", with a worker, [23] s}, 'the log names who was in a handler';
    like $s->log, qr{$who, request "GET /big HTTP/1\.1", waiting to write the rest of a response, [0123] s}, 'and who read slowly';
    is scalar(() = $s->log =~ /HYB0012/g), 2, 'and nobody else';
    ok $_->is_closed(5), 'their connections are closed' for $handler, $reader;
    is $s->get('/')->{body}, "hello\n", 'the server goes on';
};

# What goes on while the configuration is read, which may take seconds.
sub while_reading {
    my ($s, $code) = @_;
    my $reads = sub { scalar grep { $_->{hook} eq 'config' } $s->probe };
    my $before = $reads->();
    $s->file('../wait', '');
    $s->signal('USR1');
    wait_for(sub { $reads->() > $before }, 10) or $s->fail('the configuration is not read');
    $code->();
    unlink $s->root . '/wait' or die;
}

subtest 'K05: nobody waits for a configuration that is being read' => sub {
    my $s = server($usual, 'HybridProbeWaitWhile @ROOT@/wait');
    my $new;
    while_reading($s, sub {
        $new = Hybrid::Client->new($s->port);
        $new->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        my $answered = eval { $new->response(limit => 3) };
        if ($mpm eq 'hybrid') { is $answered && $answered->{body}, "hello\n", 'answered meanwhile' }
        else { ok !$answered, 'difference: it waits' }
    });
    is $new->response->{body}, "hello\n", 'answered later' if $mpm ne 'hybrid';
};

# Such a program ends with the configuration that started it; an old child that serves on would give wrong answers.
subtest 'programs that the configuration starts' => sub {
    my $s = Hybrid::Server->new(probe => 1, modules => ['rewrite'], mpm_conf => $usual, level => 'info', conf => <<'CONF');
KeepAliveTimeout 30
RewriteEngine On
RewriteMap next prg:@DOCS@/next
RewriteRule ^/map/(.*)$ /${next:$1} [L]
HybridProbeWaitWhile @ROOT@/wait
CONF
    $s->file('next', "#!/usr/bin/perl\n\$| = 1;\nwhile (<STDIN>) { chomp; print \"file\$_\\n\" }\n", 0755);
    $s->file('file1', "one\n");
    $s->start;
    my $kept = Hybrid::Client->new($s->port);
    is $kept->get('/map/1')->{body}, "one\n", 'it is asked';
    my $new;
    while_reading($s, sub {
        ok $kept->is_closed(10), 'an idle connection is closed, as long as nobody else can have it';
        $new = Hybrid::Client->new($s->port);
        $new->send("GET /map/1 HTTP/1.1\r\nHost: x\r\n\r\n");
        ok !eval { $new->response(limit => 1) }, 'a new one waits';
    });
    is $new->response->{body}, "one\n", 'for an answer from the new configuration';
};

# The parent waits for requests in work, for a second at most; here there are none.
subtest 'programs that the configuration starts, and nothing in work' => sub {
    my $s = Hybrid::Server->new(mpm_conf => $usual, level => 'info', conf => "CustomLog \"|/bin/cat >/dev/null\" %h\n")->start;
    for my $kept (0, 1) {
        my $client = Hybrid::Client->new($s->port);
        $client->get('/') if $kept;
        $client->disconnect if !$kept;
        my $shortest = min(map {
            my $begin = monotonic();
            $s->graceful;
            monotonic() - $begin;
        } 1 .. 5);
        cmp_ok $shortest, '<', 0.9, ($kept ? 'a client that is idle' : 'nobody') . ' is not waited for';
    }
};

subtest 'X13: a large HTTP/2 response over TLS across a reload' => sub {
    my $s = Hybrid::Server->new(probe => 1, modules => [qw(ssl socache_shmcb http2)], mpm_conf => $usual, level => 'info',
        conf => Hybrid::Server->tls_vhost('Protocols h2'));
    $s->make_certificate;
    $s->file('big', 'x' x 8_000_000);
    $s->start;
    my $url = "https://127.0.0.1:" . $s->port(2) . "/big";
    my $curl = start_command(40, qw(curl -sSk --http2 --limit-rate 4M -o /dev/null -w), '%{http_version} %{size_download}\n', $url);
    ok wait_for(sub { grep { $_->{hook} eq 'pre_read_request' && $_->{secondary} } $s->probe }, 10), 'the download has begun';
    $s->graceful;
    like $curl->(), qr/^2 8000000$/m, 'and comes to its end';
};

subtest 'W25: new children that can not start do not end the server' => sub {
    plan skip_all => "$mpm ends it then" if $mpm ne 'hybrid';
    for ([ '', 'serve on' ], [ "ErrorLog \"|/usr/bin/tee -a \@ROOT\@/logs/piped\"\n", 'have been told to end' ]) {
        my ($conf, $words) = @$_;
        # Those that serve are as many as there may be: the new ones have room all the same.
        my $s = Hybrid::Server->new(level => "info mpm_hybrid:debug", conf => "KeepAliveTimeout 60\n$conf",
            mpm_conf => "ServerLimit 4\nStartServers 2\nThreadsPerChild 5\nMaxRequestWorkers 10");
        my $said = sub { return Hybrid::Server::slurp($s->root . '/logs/error') . Hybrid::Server::slurp($s->root . '/logs/piped') };
        no warnings 'redefine';
        local *Hybrid::Server::log = $said;
        $s->start;
        my $client = Hybrid::Client->new($s->port);
        $client->get('/');
        my $good = $s->conf_text;
        $s->write_conf("$good\nThreadStackSize 1000000000000000\n");
        $s->signal('USR1');
        ok wait_for(sub { $said->() =~ /HYB0018: the new children can't start, which is tried again every second; those of the former generation $words/ }, 20),
            "the log says that those of the former generation $words" or diag $said->();
        my $before = () = $said->() =~ /AH03104/g;
        ok wait_for(sub { my $now = () = $said->() =~ /AH03104/g; $now > $before + 1 }, 20), 'it is tried again and again';
        is $client->get('/')->{body}, "hello\n", 'who was here before is served' if $words =~ /serve/;
        is $s->get('/')->{body}, "hello\n", 'and who comes' if $words =~ /serve/;
        is scalar(() = $said->() =~ /HYB0018/g), 1, 'it says so once';
        $s->write_conf($good);
        $s->signal('USR1');
        is $s->get('/')->{body}, "hello\n", 'another reload mends it';
        unlike $said->(), qr/AH02324/, 'the server has never ended';
    }
};

# Each signal is sent at the moment when the parent is about to fall asleep: one that comes between its last look and
# the sleep used to be noticed when the sleep was over, a second later.
subtest 'W24: a signal is noticed when it comes' => sub {
    my $s = Hybrid::Server->new->start;
    my $count = sub { my ($number) = @_; return scalar(() = $s->log =~ /$number/g) };
    my $soon = sub {
        my ($code, $limit) = @_;
        my $end = monotonic() + $limit;
        until ($code->()) {
            return 0 if monotonic() > $end;
            select undef, undef, undef, 0.0005;
        }
        return 1;
    };
    my ($asked, $resumed) = (0, 1);
    my $late = 0;
    for (1 .. 30) {
        $s->signal('USR1');
        ++$asked;
        $soon->(sub { $count->('AH00493') >= $asked }, 0.6) or $late++;
        $soon->(sub { $count->('AH00489') > $resumed }, 10) or $s->fail('no new generation');
        ++$resumed;
    }
    cmp_ok $late, '<=', 4, "thirty signals: $late late";
};

done_testing;
