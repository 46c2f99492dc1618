# SPDX-License-Identifier: Apache-2.0
# Clients that take their time hold no worker: silent ones, half a head, half a body, half of the next request, half a TLS
# handshake (K09). They are answered when the rest comes, and with 408 when it does not. What is no HTTP/1 is not waited for
# (S25, S26).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(run_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm reads with a worker" if $mpm ne 'hybrid';

sub server {
    my ($conf, %option) = @_;
    my $s = Hybrid::Server->new(probe => 1, level => 'info', conf => $conf,
        mpm_conf => "StartServers 1\nThreadsPerChild 2\nMaxRequestWorkers 2\nMinSpareThreads 1\nMaxSpareThreads 64", %option);
    $s->make_certificate if $conf =~ /SSLEngine/;
    return $s->start;
}

sub clients { my ($s, $first, $count) = @_; return map { my $c = Hybrid::Client->new($s->port); $c->send($first) if length $first; $c } 1 .. ($count // 5) }

# The kernel keeps silent clients for itself first: for how many seconds, and the directive that says so. An httpd that does
# not know it says 30, which the kernel makes 31.
my ($deferred, $defer) = (Hybrid::Server->new(mpm => 'event', conf => 'ListenTCPDeferAccept 1')->run('-t'))[0] == 0
    ? (1, 'ListenTCPDeferAccept 1') : (31, '');
diag "this httpd does not know ListenTCPDeferAccept: silent clients come after $deferred s" if !$defer;

# Nobody is at work but who answers.
sub idle { my ($s) = @_; return wait_for(sub { $s->status->{BusyWorkers} == 1 }, 5) }

my $post = "POST /read HTTP/1.1\r\nHost: x\r\n";
my @cases = (
    [ 'half a request line', 'GET /co', "nn HTTP/1.1\r\nHost: x\r\n\r\n", qr/keepalives=0/ ],
    [ 'half a head', "GET /conn HTTP/1.1\r\nHo", "st: x\r\n\r\n", qr/keepalives=0/ ],
    [ 'blank lines before it', "\r\n\r\nGET /conn HTTP/1.1\r\nHost: x\r\n", "\r\n", qr/keepalives=0/ ],
    [ 'half a body', "${post}Content-Length: 10\r\n\r\n12345", '67890', qr/^read 10$/ ],
    [ 'half a chunk', "${post}Transfer-Encoding: chunked\r\n\r\n5\r\n123", "45\r\n0\r\n\r\n", qr/^read 5$/ ],
    [ 'half of the second request', "GET /conn HTTP/1.1\r\nHost: x\r\n\r\nGET /conn HT", "TP/1.1\r\nHost: x\r\n\r\n", qr/keepalives=1/, 1 ],
    [ 'half of the second body', "${post}Content-Length: 2\r\n\r\n12${post}Content-Length: 4\r\n\r\n12", '34', qr/^read 4$/, 1 ],
);
subtest 'the rest comes' => sub {
    my $s = server('');
    for (@cases) {
        my ($what, $first, $rest, $answer, $before) = @$_;
        my @clients = clients($s, $first);
        for (1 .. ($before // 0)) { $_->response for @clients }
        ok idle($s), "$what: five of them hold no worker";
        is $s->get('/')->{body}, "hello\n", "$what: another client is answered";
        $_->send($rest) for @clients;
        is_deeply [ grep { $_->response->{body} !~ $answer } @clients ], [], "$what: all are answered";
        is $clients[0]->get('/')->{body}, "hello\n", "$what: and go on";
    }
    my ($client) = clients($s, '', 1);
    for my $byte (split //, "GET /conn HTTP/1.1\r\nHost: x\r\n\r\n") { $client->send($byte) }
    like $client->response->{body}, qr/keepalives=0/, 'byte by byte';
    my $head = "GET /conn HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: " . 'x' x 200 . "\r\n" } 1 .. 90);
    ($client) = clients($s, substr($head, 0, 10_000), 1);
    ok idle($s), 'a large head';
    $client->send(substr($head, 10_000) . "\r\n");
    like $client->response->{body}, qr/keepalives=0/, 'is answered when it is whole';
};

subtest 'the rest does not come: 408 in time, if a request has begun' => sub {
    my $s = server("RequestReadTimeout header=1-3,MinRate=100 body=1\nTimeout 60\n$defer\nCustomLog \@ROOT\@/logs/access \"%>s %r\"\n", modules => ['reqtimeout']);
    my $begin = monotonic();
    my @half = (clients($s, "GET /half HTTP/1.1\r\nHo", 2), clients($s, "${post}Content-Length: 10\r\n\r\n12345", 2));
    my @more = clients($s, "GET /more HTTP/1.1\r\nX: " . 'x' x 190 . "\r\n", 1); # has earned itself another second or so
    my @silent = clients($s, '', 2);
    ok idle($s), 'nobody is held';
    is_deeply [ map { $_->response->{status} } @half[ 0, 1 ] ], [ 408, 408 ], 'half a head: 408';
    like $half[$_]->response->{body}, qr/^read 5$|Timeout|Bad Request/, 'half a body: its handler hears so' for 2, 3;
    ok $_->is_closed(10), 'closed' for @half;
    is $more[0]->response->{status}, 408, 'one that has sent more';
    cmp_ok monotonic() - $begin, '>', 1.9, 'had more time';
    ok $_->is_closed(10 + $deferred), 'a silent one is closed' for @silent;
    cmp_ok monotonic() - $begin, '<', 20 + $deferred, 'none waits for Timeout';
    my $access = Hybrid::Server::slurp($s->root . '/logs/access');
    like $access, qr/^408 GET \/half/m, 'the access log has it';
    $s = server("RequestReadTimeout header=0 body=0\nTimeout 1", modules => ['reqtimeout']);
    my ($client) = clients($s, "GET /half HTTP/1.1\r\nHo", 1);
    is $client->response->{status}, 408, 'without such limits it is Timeout';
};

subtest 'RequestReadTimeout is still mod_reqtimeout\'s' => sub {
    my $s = Hybrid::Server->new(modules => ['reqtimeout'], conf => "RequestReadTimeout header=x\n");
    like +($s->run('-t'))[1], qr/RequestReadTimeout: header=x: Value 'x' not numerical/, 'which says what is wrong';
    (my $text = $s->conf_text) =~ s/^LoadModule reqtimeout.*\n//m;
    $s->write_conf($text);
    like +($s->run('-t'))[1], qr/Invalid command 'RequestReadTimeout', perhaps misspelled/, 'and without it there is none';
};

subtest 'RequestReadTimeout of the virtual host that the address has' => sub {
    my $s = server("RequestReadTimeout header=60\nListen 127.0.0.1:\@PORT2\@\n<VirtualHost 127.0.0.1:\@PORT2\@>\n RequestReadTimeout header=1\n</VirtualHost>\n",
        modules => ['reqtimeout']);
    my ($patient, $hasty) = map { Hybrid::Client->new($s->port($_)) } 1, 2;
    $_->send("GET / HTTP/1.1\r\nHo") for $patient, $hasty;
    is $hasty->response(limit => 20)->{status}, 408, 'one says 408';
    ok !$patient->is_closed(0.5), 'the other waits';
    $patient->send("st: x\r\n\r\n");
    is $patient->response->{status}, 200, 'and answers';
};

subtest 'AwaitRequest: how much of a request' => sub {
    for (['head', 1, 6], ['off', 2, 6]) {
        my ($much, $at_work) = @$_;
        my $s = server("AwaitRequest $much");
        my @heads = clients($s, 'GET /conn HT', 1);
        ok wait_for(sub { $s->status->{BusyWorkers} == $at_work }, 5), "$much: half a head, with $at_work at work";
        $heads[0]->send("TP/1.1\r\nHost: x\r\n\r\n");
        like $heads[0]->response->{body}, qr/keepalives=0/, 'is answered';
        my ($body) = clients($s, "${post}Content-Length: 10\r\n\r\n12345", 1);
        ok wait_for(sub { $s->status->{BusyWorkers} == 2 }, 5), "$much: half a body has a worker";
        $body->send('67890');
        is $body->response->{body}, "read 10\n", 'and is answered';
    }
};

subtest 'slow readers' => sub {
    my $s = server(Hybrid::Server->tls_vhost, modules => [qw(ssl socache_shmcb)]);
    my $content = join '', map { sprintf "%09d\n", $_ } 1 .. 1_000_000;
    $s->file('large', $content);
    for my $tls (0, 1) {
        my @slow = map {
            my $client = Hybrid::Client->new($s->port(1 + $tls), tls => $tls, rcvbuf => 65_536);
            $client->send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
            $client->read_until(qr/\r\n\r\n/);
            $client;
        } 1 .. 5;
        my $over = $tls ? 'TLS' : 'plain HTTP';
        ok idle($s), "$over: five that don't read a large file on hold no worker";
        is $s->status->{ConnsAsyncWriting}, 5, 'mod_status shows them';
        is $s->get('/')->{body}, "hello\n", 'another client is answered';
        ok $slow[0]->read_bytes(length $content) eq $content, 'one reads on, and gets it all';
        like $slow[0]->get('/conn')->{body}, qr/keepalives=1/, 'and goes on';
        $slow[1]->disconnect;
        $slow[2]->send("GET /conn HTTP/1.1\r\nHost: x\r\n\r\n");
        ok $slow[2]->read_bytes(length $content) eq $content, 'one asks for more while it reads';
        like $slow[2]->response->{body}, qr/keepalives=1/, 'and is answered then';
        ok wait_for(sub { $s->status->{ConnsAsyncWriting} == 2 }, 5), 'who has gone is forgotten';
        $_->disconnect for @slow;
    }
};

subtest 'TLS: half a handshake' => sub {
    my $s = server(Hybrid::Server->tls_vhost, modules => [qw(ssl socache_shmcb)]);
    my @clients = map { Hybrid::Client->new($s->port(2)) } 1 .. 5;
    $_->send("\x16\x03\x01\x02\x00\x01\x00") for @clients;
    ok idle($s), 'five of them hold no worker';
    is(Hybrid::Client->new($s->port(2), tls => 1)->get('/')->{body}, "hello\n", 'another client is answered');
    my $plain = Hybrid::Client->new($s->port(2));
    $plain->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    like $plain->response->{body}, qr/speaking plain HTTP to an SSL-enabled server port/, 'plain HTTP is told so';
};

subtest 'S25, S26: what is no HTTP/1' => sub {
    my $s = server(<<'CONF', modules => [qw(http2 echo remoteip)]);
Protocols h2c http/1.1
Listen 127.0.0.1:@PORT2@
Listen 127.0.0.1:@PORT3@
<VirtualHost 127.0.0.1:@PORT2@>
    ProtocolEcho On
</VirtualHost>
<VirtualHost 127.0.0.1:@PORT3@>
    RemoteIPProxyProtocol On
</VirtualHost>
CONF
    my $echo = Hybrid::Client->new($s->port(2));
    $echo->send("hello\n");
    is $echo->read_until(qr/\n/, 5), "hello\n", 'mod_echo answers a line at once';
    $echo->disconnect;
    my $proxy = Hybrid::Client->new($s->port(3));
    $proxy->send("PROXY TCP4 192.0.2.9 192.0.2.1 1000 80\r\nGET /conn HT");
    ok idle($s), 'half a head behind a PROXY line holds no worker';
    $proxy->send("TP/1.1\r\nHost: x\r\n\r\n");
    is $proxy->response->{status}, 200, 'and is answered';
    my $old = Hybrid::Client->new($s->port);
    $old->send("\x00\x01garbage\r\n");
    like $old->read_until(qr/\r\n/, 5), qr/400 Bad Request/, 'garbage is judged at once';
    for my $how ('--http2-prior-knowledge', '--http2') {
        like run_command(20, 'curl', '-s', $how, '-w', ' %{http_version}', $s->url('/')), qr/hello\n 2/, "h2c: curl $how";
    }
    my $client = Hybrid::Client->new($s->port);
    $client->send("${post}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    like $client->read_until(qr/\r\n\r\n/, 5), qr/^HTTP\/1.1 100/, 'who expects to be told to go on is told';
    $client->send('1234');
    is $client->response->{body}, "read 4\n", 'and answered';
};

subtest 'a client that goes away' => sub {
    my $s = server($defer);
    my @clients = (clients($s, ''), clients($s, 'GET /half'));
    ok wait_for(sub { $s->status->{ConnsTotal} == 11 }, 15 + $deferred), 'connected';
    $_->disconnect for @clients;
    ok wait_for(sub { $s->status->{ConnsTotal} == 1 }, 5), 'is forgotten at once';
    my ($client) = clients($s, 'GET /half', 1);
    $client->half_close;
    ok $client->is_closed(5), 'one that ends within a head is answered, or closed, at once';
};

done_testing;
