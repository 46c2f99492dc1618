# SPDX-License-Identifier: Apache-2.0
# Requests that come in pieces of any size, as they do on a wire: each is answered as soon as it is whole, leaves nothing
# behind that the next one on its connection would trip over, and costs no more than its bytes.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(usleep);
use Hybrid::Client;
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $hybrid = Hybrid::Server::mpm() eq 'hybrid';

# /read says how long the request's body was.
sub server {
    my ($conf, %option) = @_;
    my @modules = ('cgi', 'alias', @{ delete $option{modules} || [] });
    my $s = Hybrid::Server->new(conf => "ScriptAlias /read \@ROOT\@/read.cgi\n<Directory \@ROOT\@>\nRequire all granted\n</Directory>\n$conf",
        modules => \@modules, mpm_conf => "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 64", %option);
    $s->file('../read.cgi', "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\nread '\nexec wc -c\n", 0755);
    $s->make_certificate if $conf =~ /SSLEngine/;
    return $s->start;
}

# Sends each piece by itself, so late that the server has seen the one before.
sub send_pieces {
    my ($client, @pieces) = @_;
    for (@pieces) { $client->send($_); usleep(30_000) }
}

sub post {
    my ($length) = @_;
    return "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: $length\r\n\r\n";
}

# Nobody is at work but the one who answers.
sub nobody_works { my ($s) = @_; return wait_for(sub { $s->status->{BusyWorkers} == 1 }, 10) }

sub asleep { my ($s) = @_; my $n = () = $s->log =~ /goes to sleep/g; return $n }

my $get = "GET /index.html HTTP/1.1\r\nHost: x\r\n";
my $head = $get . "X: " . 'x' x 2_400 . "\r\nY: " . 'y' x 3_500 . "\r\n\r\n";
my @cases = (
    [ 'a body of 100 kB in pieces of ten', qr/^read 102400$/, post(102_400), ('x' x 10_240) x 10 ],
    [ 'a body of 10 kB in two', qr/^read 10240$/, post(10_240), 'x' x 6_000, 'x' x 4_240 ],
    [ 'its head in the first', qr/^read 10240$/, post(10_240) . 'x' x 3_000, 'x' x 7_240 ],
    [ 'a body of 40 kB, of which 32 are waited for', qr/^read 40960$/, post(40_960) . 'x' x 20_480, 'x' x 20_480 ],
    [ 'a head of 6 kB in three', qr/^hello$/, substr($head, 0, 4_500), substr($head, 4_500, 1_400), substr($head, 5_900) ],
    [ 'a head of 4.2 kB, and a byte', qr/^hello$/, (map { $_, 'x', "\r\n\r\n" } $get . "Y: " . 'y' x 4_200) ],
    [ 'chunks', qr/^read 12000$/, "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1770\r\n", 'x' x 3_000, 'x' x 3_000 . "\r",
        "\n1770\r\n", 'x' x 6_000 . "\r\n0\r\n", "\r\n" ],
);

subtest 'W01: each request is answered, as the first, the second, or after a sleep, and so is the next' => sub {
    my $s = server("KeepAliveTimeout 60\nTimeout 40\n" . Hybrid::Server->tls_vhost, level => 'info mpm_@MPM@:trace6',
        modules => [qw(ssl socache_shmcb)]);
    for my $kind ('plain', 'TLS') {
        for (@cases) {
            my ($what, $answer, @pieces) = @$_;
            my $client = $kind eq 'TLS' ? Hybrid::Client->new($s->port(2), tls => 1, limit => 15) : Hybrid::Client->new($s->port, limit => 15);
            for my $which ('first', 'second') {
                send_pieces($client, @pieces);
                like $client->response->{body}, $answer, "$kind: $what, as the $which request";
            }
            is $client->get('/')->{body}, "hello\n", "$kind: $what: and another";
        }
    }
    return if !$hybrid;
    my @clients = map { my $c = Hybrid::Client->new($s->port, limit => 15); $c->get('/'); $c } @cases;
    ok wait_for(sub { asleep($s) >= @cases }, 10), 'all sleep';
    for (@cases) {
        my ($what, $answer, @pieces) = @$_;
        my $client = shift @clients;
        send_pieces($client, @pieces);
        like $client->response->{body}, $answer, "$what, after a sleep";
        is $client->get('/')->{body}, "hello\n", "$what: and another";
    }
};

subtest 'W01: a head of 4.2 kB and a byte at a time holds no worker' => sub {
    my $s = server("RequestReadTimeout header=40 body=40\n", modules => ['reqtimeout']);
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 6;
    send_pieces($_, $get . 'X: ' . 'x' x 4_200, 'x', 'x') for @clients;
    is $s->get('/')->{body}, "hello\n", 'another client is answered';
    ok nobody_works($s), 'and nobody else has a worker';
    $_->send("\r\n\r\n") for @clients;
    is scalar(grep { $_->response->{status} == 200 } @clients), 6, 'all are answered';
} if $hybrid;

subtest 'W12: idle after an upload over TLS is idle' => sub {
    my $s = server("KeepAliveTimeout 40\nRequestReadTimeout header=2 body=2\n" . Hybrid::Server->tls_vhost,
        modules => [qw(ssl socache_shmcb reqtimeout)]);
    my @clients = map { Hybrid::Client->new($s->port(2), tls => 1) } 1 .. 5;
    for my $client (@clients) {
        send_pieces($client, post(60_000), 'x' x 40_000, 'x' x 20_000);
        is $client->response->{body}, "read 60000\n", 'an upload';
    }
    ok wait_for(sub { $s->status->{ConnsAsyncKeepAlive} == 5 }, 10), 'five are kept alive' or diag explain $s->status;
    my $end = monotonic() + 3;
    ok !(grep { $_->is_closed(($end - monotonic()) / 5) } @clients), 'for longer than a head may take';
    is scalar(grep { $_->get('/')->{body} eq "hello\n" } @clients), 5, 'and are answered';
} if $hybrid;

# What the server's children have used up so far.
sub cpu { my ($s) = @_; my $sum = 0; for ($s->children) { my @f = split ' ', (Hybrid::Server::slurp("/proc/$_/stat") =~ /\) (.*)/)[0]; $sum += $f[11] + $f[12] } return $sum }
sub memory { my ($s) = @_; my $sum = 0; for ($s->children) { $sum += $1 if Hybrid::Server::slurp("/proc/$_/smaps_rollup") =~ /^Private_Dirty:\s+(\d+)/m } return $sum }

subtest 'W05: a kept-alive client that sends a byte at a time costs what it sends' => sub {
    my $s = server("DormantConnections off\nKeepAliveTimeout 60\nTimeout 60\n");
    my $drip = sub {
        my ($bytes, $count) = @_;
        my @clients = map { my $c = Hybrid::Client->new($s->port, limit => 60); $c->get('/'); $c } 1 .. $count;
        my ($cpu, $memory) = (cpu($s), memory($s));
        send_pieces($_, post($bytes)) for @clients;
        for my $n (1 .. $bytes - 1) { $_->send('x') for @clients }
        my $grown = memory($s) - $memory;
        $_->send('x') for @clients;
        is scalar(grep { $_->response->{body} eq "read $bytes\n" } @clients), $count, "$bytes bytes are answered";
        return (cpu($s) - $cpu, $grown);
    };
    $drip->(3_000, 4);
    my ($few) = $drip->(3_000, 8);
    my ($many, $grown) = $drip->(12_000, 8);
    my $most = 8 * (2 * 12 + 64) * (Hybrid::Sanitizer::sanitizer() ? 20 : 1); # which has some of its own
    cmp_ok $grown, '<', $most, "memory: $grown kB for 8 x 12";
    cmp_ok $many, '<', 8 * ($few + 5), "four times the bytes: $few and $many hundredths of a second of CPU";
} if $hybrid;

subtest 'W07: a slow upload that is fast enough for MinRate is waited for' => sub {
    my $s = server("RequestReadTimeout header=20 body=1,MinRate=1000\n", modules => ['reqtimeout']);
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 2;
    $clients[1]->get('/'); # one is live
    $_->send(post(3_000)) for @clients;
    for (1 .. 24) { $_->send('x' x 125) for @clients; usleep(95_000) }
    is_deeply [ map { $_->response->{body} } @clients ], [ ("read 3000\n") x 2 ], 'both';
    my $late = Hybrid::Client->new($s->port);
    $late->send(post(3_000) . 'x' x 100);
    isnt $late->response->{body}, "read 3000\n", 'one that sends less is not';
};

subtest 'W14: PRI is a method like any other, and a preface is waited for' => sub {
    my $s = server("RequestReadTimeout header=40\n", modules => ['reqtimeout']);
    my @clients = map { my $c = Hybrid::Client->new($s->port); $c->send($_); $c }
        ("PRI / HTTP/1.1\r\n") x 4, ("PRI * HTTP/2.0\r\n") x 4, ("\x16\x03\x01") x 4;
    ok nobody_works($s), 'twelve of them hold no worker';
    $clients[0]->send("Host: x\r\n\r\n");
    is $clients[0]->response->{status}, 501, 'answered when it is whole';
} if $hybrid;

# [ what, request, status ]
my @refused = (
    [ 'a length with letters', "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 123abc\r\n\r\n", 400 ],
    [ 'of 34 digits', "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1234567890123456789012345678901234\r\n\r\n", 400 ],
    [ 'two in one', "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\n", 400 ],
    [ 'two that differ', "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400 ],
    [ 'a chunk of 17 digits', "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", 413 ],
    [ 'a chunk with letters', "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5xyz\r\n", 400 ],
    [ 'control characters behind it', "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;\x01\r\n", 400 ],
    [ 'an unknown encoding', "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400 ],
    [ 'a long line without an end', 'GET /' . 'x' x 30_000, 414 ],
    [ 'a long field without an end', "GET / HTTP/1.1\r\nX: " . 'x' x 30_000, 400 ],
    [ 'too many fields', "GET / HTTP/1.1\r\n" . join('', map { "X$_: y\r\n" } 1 .. 102), 400 ],
    [ 'a line that is no request', "GET / \x01 HTTP/1.1\r\n", 400 ],
    [ 'a field without a colon, and another', "GET / HTTP/1.1\r\nX\r\nY: z\r\n", 400 ],
    [ 'a line with a bare line feed', "GET / HTTP/1.1\n", 400 ],
);
subtest 'W19: what cannot become right is refused at once, also inside TLS' => sub {
    my $s = server("RequestReadTimeout header=40 body=40\nTimeout 40\n" . Hybrid::Server->tls_vhost, modules => [qw(ssl socache_shmcb reqtimeout)]);
    for my $kind ('plain', 'TLS') {
        my $large = "GET / HTTP/1.1\r\nHost: x\r\n" . join('', map { "X$_: " . 'x' x 400 . "\r\n" } 1 .. 90);
        my $lines = "GET / HTTP/1.1\r\nX: " . 'x' x 36_000;
        for (@refused, [ 'a field of 36 kB without an end', $lines, 400 ]) {
            my ($what, $request, $status) = @$_;
            my $client = $kind eq 'TLS' ? Hybrid::Client->new($s->port(2), tls => 1, limit => 15) : Hybrid::Client->new($s->port, limit => 15);
            $client->send($request);
            is eval { $client->response->{status} } // "nothing: $@", $status, "$kind: $what";
        }
        my $client = $kind eq 'TLS' ? Hybrid::Client->new($s->port(2), tls => 1, limit => 15) : Hybrid::Client->new($s->port, limit => 15);
        $client->send($large);
        usleep(100_000);
        $client->send("\r\n");
        is eval { $client->response->{status} }, 200, "$kind: a head of 36 kB is not";
    }
};

subtest 'W15: out of descriptors, half requests go before idle clients' => sub {
    my $s = server("KeepAliveTimeout 60\nRequestReadTimeout header=60\n", limits => { nofile => 150 }, modules => ['reqtimeout']);
    my @idle = map { my $c = Hybrid::Client->new($s->port); $c->get('/'); $c } 1 .. 30;
    my @half = map { my $c = Hybrid::Client->new($s->port); $c->send('GET / HT'); $c } 1 .. 200;
    is eval { Hybrid::Client->new($s->port, limit => 25)->get('/')->{body} }, "hello\n", 'a new client is answered';
    is scalar(grep { eval { $_->get('/')->{body} eq "hello\n" } } @idle), 30, 'and the idle ones are still there';
} if $hybrid;

subtest 'W27: the KeepAliveTimeout that counts is that of the last request' => sub {
    my $s = server(<<'CONF');
<VirtualHost *>
    ServerName long
    KeepAliveTimeout 15
</VirtualHost>
<VirtualHost *>
    ServerName short
    KeepAliveTimeout 1
</VirtualHost>
CONF
    my $client = Hybrid::Client->new($s->port);
    $client->get('/', host => 'long');
    $client->get('/', host => 'short');
    my $begin = monotonic();
    ok $client->is_closed(14), 'closed';
    cmp_ok monotonic() - $begin, '<', 8, 'after 1 s, not 15';
};

subtest 'W31: one connection, one id, however often it sleeps' => sub {
    my $s = server("LogFormat \"%{c}L\" id\nCustomLog \@ROOT\@/logs/ids id\nKeepAliveTimeout 30\n", level => 'info mpm_@MPM@:trace6');
    my $client = Hybrid::Client->new($s->port);
    for my $n (1 .. 3) {
        is $client->get('/')->{status}, 200, "request $n";
        ok wait_for(sub { asleep($s) >= $n }, 10), 'sleeps';
    }
    my %ids = map { $_ => 1 } grep { $_ ne '-' } Hybrid::Server::slurp($s->root . '/logs/ids') =~ /^(\S+)$/mg;
    is scalar(keys %ids), 1, 'one id';
} if $hybrid;

subtest 'W37: who would lose something stays awake' => sub {
    my $s = server("HostnameLookups On\nKeepAliveTimeout 30\nCustomLog \@ROOT\@/logs/access %h\n", level => 'info mpm_@MPM@:trace6');
    my $client = Hybrid::Client->new($s->port);
    $client->get('/');
    my $other = Hybrid::Client->new($s->port);
    $other->get('/');
    ok !$client->is_closed(2.5), 'time to fall asleep';
    is asleep($s), 0, 'a client whose name has been asked for does not';
    $s = server('', modules => ['lua']);
    $s->wait_log(qr/HYB0010: idle connections keep their memory: mod_lua\.c/);
    pass 'nor any with mod_lua';
} if $hybrid;

subtest 'W02: a connection that is closed ends when its client ends it' => sub {
    my $s = server('', probe => 1, mpm_conf => "StartServers 1\nThreadsPerChild 25\nMaxRequestWorkers 25\nMinSpareThreads 1\nMaxSpareThreads 64");
    for (1 .. 20) {
        my @clients = map {
            my $c = Hybrid::Client->new($s->port);
            $c->send("GET /sleep?ms=10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            $c;
        } 1 .. 20;
        for (@clients) { $_->response; $_->disconnect }
    }
    ok wait_for(sub { my $status = $s->status; $status->{ConnsTotal} <= 1 && $status->{ConnsAsyncClosing} <= 1 }, 10), 'four hundred of them'
        or diag explain $s->status;
};

done_testing;
