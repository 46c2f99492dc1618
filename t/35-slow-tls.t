# SPDX-License-Identifier: Apache-2.0
# Clients that are slow inside TLS: handshakes that stall, heads and bodies in one-byte records. No worker waits for them, and what
# they get is what mod_ssl and httpd would have said (K09, K10).

use strict;
use warnings;
use Test::More;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::SSL;
use Hybrid::Client;
use Hybrid::Load qw(run_command);
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm holds a worker for each (K09, K10)" if $mpm ne 'hybrid';

sub server {
    my ($conf, %option) = @_;
    my $s = Hybrid::Server->new(probe => 1, modules => [qw(ssl socache_shmcb reqtimeout http2)],
        mpm_conf => "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 64\n",
        conf => Hybrid::Server->tls_vhost($option{vhost} // '') . "KeepAliveTimeout 20\nCustomLog \@ROOT\@/logs/access \"%>s %r\"\n" . ($conf // ''), %option);
    $s->make_certificate;
    return $s->start;
}

sub idle { my ($s) = @_; return wait_for(sub { $s->status->{BusyWorkers} <= 1 }, 5) } # who asks is at work

sub tls { my ($s) = @_; return Hybrid::Client->new($s->port(2), tls => 1) }

# Each byte in a record of its own.
sub trickle { my ($client, $bytes) = @_; $client->send($_) for split //, $bytes }

# A proxy process between client and server: its port. What the client sends goes on in pieces of $size bytes, and no more
# than $most flights of it.
my @proxies;
sub proxy {
    my ($s, $size, $most) = @_;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50) or die $!;
    my $pid = fork // die $!;
    if ($pid) { push @proxies, $pid; return $listener->sockport }
    my (%peer, %sent, %is_client);
    my $select = IO::Select->new($listener);
    while (1) {
        for my $socket ($select->can_read) {
            if ($socket == $listener) {
                my $client = $listener->accept or next;
                my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $s->port(2)) or POSIX::_exit(1);
                $_->setsockopt(Socket::IPPROTO_TCP(), Socket::TCP_NODELAY(), 1) for $client, $server;
                @peer{ $client, $server } = ($server, $client);
                $is_client{$client} = 1;
                $select->add($client, $server);
                next;
            }
            my $other = $peer{$socket};
            if (!sysread $socket, my $bytes, 65_536) { shutdown $other, 1; $select->remove($socket); next }
            elsif (!$is_client{$socket}) { syswrite $other, $bytes }
            else {
                next if $most && ++$sent{$socket} > $most;
                for my $piece (unpack "(a$size)*", $bytes) {
                    syswrite $other, $piece;
                    select undef, undef, undef, 0.0005; # so that it is a segment of its own
                }
            }
        }
    }
}
END { kill 'KILL', @proxies if @proxies }

# A handshake through a proxy, that is not waited for.
sub start_handshake {
    my ($port) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!;
    my $tls = IO::Socket::SSL->start_SSL($socket, SSL_verify_mode => 0, SSL_startHandshake => 0);
    $tls->blocking(0);
    $tls->connect_SSL;
    return $tls;
}

subtest 'handshakes' => sub {
    my $s = server('RequestReadTimeout handshake=3 header=20');
    my $begin = monotonic();
    my $stalls = proxy($s, 1_000, 1); # not the second
    my @stalled = map { start_handshake($stalls) } 1 .. 12;
    for my $tls (@stalled) { for (1 .. 20) { last if $tls->connect_SSL || !IO::Select->new($tls)->can_read(0.05) } }
    ok idle($s), 'stalled ones hold no worker';
    is tls($s)->get('/')->{body}, "hello\n", 'others are served';
    my $pieces = proxy($s, 7);
    my $in_pieces = Hybrid::Client->new($pieces, tls => 1);
    is $in_pieces->get('/')->{body}, "hello\n", 'a handshake in pieces of seven bytes';
    ok wait_for(sub { $s->status->{ConnsTotal} <= 2 }, 10), 'those that stall are closed' or diag explain $s->status;
    my $time = monotonic() - $begin;
    cmp_ok $time, '>', 2.5, 'when their time is over';
    my $access = Hybrid::Server::slurp($s->root . '/logs/access');
    unlike $access, qr/^408/m, 'without a request';
};

subtest 'the rest comes' => sub {
    my $s = server();
    my @clients = map { tls($s) } 1 .. 12;
    trickle($_, "GET /?a HTTP/1.1\r\nHost: loc") for @clients;
    ok idle($s), 'heads in one-byte records hold no worker';
    is tls($s)->get('/')->{body}, "hello\n", 'others are served';
    trickle($_, "alhost\r\n\r\n") for @clients;
    is scalar(grep { $_->response->{body} eq "hello\n" } @clients), 12, 'all are answered';
    trickle($_, "GET /?b HTTP/1.1\r\nHo") for @clients;
    ok idle($s), 'so do second requests';
    trickle($_, "st: x\r\n\r\n") for @clients;
    is scalar(grep { $_->response->{body} eq "hello\n" } @clients), 12, 'which are answered, too';
    my $body = 'x' x 300;
    trickle($_, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n" . substr $body, 0, 200) for @clients;
    ok idle($s), 'nor do bodies';
    trickle($_, substr $body, 200) for @clients;
    is scalar(grep { $_->response->{body} =~ /read 300/ } @clients), 12, 'they arrive';
    $_->send("POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel") for @clients;
    ok idle($s), 'nor chunks';
    $_->send("lo\r\n0\r\n\r\n") for @clients;
    is scalar(grep { $_->response->{body} =~ /read 5/ } @clients), 12, 'they arrive';
};

subtest 'pipelining, large bodies, Expect' => sub {
    my $s = server();
    my $client = tls($s);
    my $get = "GET /?1 HTTP/1.1\r\nHost: x\r\n\r\n";
    $client->send($get x 5);
    is scalar(grep { $client->response->{body} eq "hello\n" } 1 .. 5), 5, 'five in one record';
    $client->send($get . "\r\n\r\n" . substr $get, 0, 10);
    is $client->response->{body}, "hello\n", 'one and a half: the one is answered';
    ok idle($s), 'the half is waited for without a worker';
    $client->send(substr $get, 10);
    is $client->response->{body}, "hello\n", 'and then answered';
    my $large = 'y' x 200_000;
    $client->send("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n$large$get");
    like $client->response->{body}, qr/read 200000/, 'a large body';
    is $client->response->{body}, "hello\n", 'and what comes behind it';
    $client->send("POST /read HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    is $client->response->{status}, 100, '100-continue';
    $client->send('hello');
    like $client->response->{body}, qr/read 5/, 'and the body';
};

subtest 'the rest does not come' => sub {
    my $s = server('RequestReadTimeout header=2 body=2');
    my $begin = monotonic();
    my ($silent, $word, $head, $body) = map { tls($s) } 1 .. 4;
    my $second = tls($s);
    $second->get('/');
    trickle($word, 'GE');
    trickle($head, "GET /half HTTP/1.1\r\nHo");
    trickle($second, "GET /second HTTP/1.1\r\nHo");
    trickle($body, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345");
    ok idle($s), 'nobody is held';
    is $_->response(limit => 15)->{status}, 408, 'is told so' for $head, $second;
    my $answer = eval { $body->response(limit => 15) };
    like $answer->{body} // '', qr/^read 5$|Timeout|Bad Request/, 'half a body: its handler hears so';
    ok $_->is_closed(15), 'closed' for $silent, $word, $head, $second, $body;
    my $time = monotonic() - $begin;
    ok $time > 1.5 && $time < 9, "in time ($time s)";
    like Hybrid::Server::slurp($s->root . '/logs/access'), qr{^408 GET /half}m, 'the access log has it';
};

# What is read ahead, 32 KiB or so, lies in memory of ours: it is there until a reader has read on (W43). What is freed has
# another content at once here. Beyond that it is mod_ssl's memory, with the same content for the next bytes.
subtest 'what a handler has read stays as it is until it has read on' => sub {
    my $s = server('', env => { MALLOC_PERTURB_ => 165 });
    my $client = tls($s);
    for my $size (100, 20_000, 100_000) {
        my $body = join '', map { chr(97 + $_ % 26) } 1 .. $size;
        $client->send("POST /read?keep=1 HTTP/1.1\r\nHost: x\r\nContent-Length: $size\r\n\r\n$body");
        my ($read, $changed) = $client->response->{body} =~ /^read (\d+) changed (-?\d+)$/;
        is $read, $size, "$size bytes are read";
        ok $changed == -1 || $changed >= 32_000, "those read ahead stay ($changed)";
    }
};

# A request costs a connection nothing that it keeps for its life (W29). Over TLS httpd itself keeps 32 bytes of each.
subtest 'many requests on one connection' => sub {
    plan skip_all => 'a sanitizer keeps what has been freed' if Hybrid::Sanitizer::sanitizer();
    my $count = 10_000;
    my $growth = sub {
        my $s = server('MaxKeepAliveRequests 0', probe => 0, level => 'warn', mpm => $_[0]); # the probe keeps some, too
        my ($child) = $s->children;
        my $kb = sub { return Hybrid::Server::slurp("/proc/$child/status") =~ /^RssAnon:\s+(\d+)/m ? $1 : die 'no RssAnon' };
        my $client = tls($s);
        my $ask = sub { $client->get('/')->{status} == 200 or die 'no answer' for 1 .. $_[0] };
        $ask->(2_000);
        my $before = $kb->();
        $ask->($count);
        return $kb->() - $before;
    };
    my ($hybrid, $event) = map { $growth->($_) } qw(hybrid event);
    cmp_ok $hybrid, '<', $event + 200, "so many kB more after $count requests: $hybrid, with event $event";
};

subtest 'as mod_ssl says it' => sub {
    my $s = server("<Location /certificate>\n SSLVerifyClient optional_no_ca\n SetHandler hybrid-read\n</Location>\n", vhost => 'Protocols h2 http/1.1');
    my $plain = Hybrid::Client->new($s->port(2));
    $plain->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    my $answer = $plain->response;
    is $answer->{status}, 400, 'plain HTTP on the TLS port';
    like $answer->{body}, qr/speaking plain HTTP to an SSL-enabled server port/, 'is told so';
    my $junk = tls($s);
    $junk->send("\x00\x01junk\r\n\r\n");
    is $junk->response->{status}, 400, 'junk';
    my $url = 'https://127.0.0.1:' . $s->port(2);
    like run_command(20, 'curl', '-sk', '--http2', '-w', '%{http_version}', "$url/"), qr/^hello\n2$/, 'HTTP/2';
    my @certificate = ('-E', $s->root . '/cert.pem', '--key', $s->root . '/key.pem');
    like run_command(20, 'curl', '-sk', '--http1.1', '--tls-max', '1.2', @certificate, '-d', 'x' x 20_000, "$url/certificate"), qr/read 20000/,
        'a certificate asked for by a location, with a body: renegotiation';
};

# "Listen 8443" and SSLEngine On: nothing but the client's first byte says that it is TLS. Event does as well.
subtest 'TLS where Listen does not say so' => sub {
    my $vhost = Hybrid::Server->tls_vhost("SSLProtocol all\nSSLCipherSuite ALL:\@SECLEVEL=0") =~ s/ https$//mr;
    my $s = Hybrid::Server->new(modules => [qw(ssl socache_shmcb reqtimeout)], conf => $vhost . "KeepAliveTimeout 20\n");
    $s->make_certificate;
    $s->start;
    my $client = tls($s);
    is scalar(grep { my $r = eval { $client->get("/", limit => 5) }; $r && $r->{body} eq "hello\n" } 1 .. 5),
        5, 'five requests on one connection';
    $client->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" x 3);
    is scalar(grep { my $r = eval { $client->response(limit => 5) }; $r && $r->{body} eq "hello\n" } 1 .. 3), 3, 'three at once';
    trickle($client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    is $client->response->{body}, "hello\n", 'one in records of a byte';
    like run_command(20, qw(openssl s_client -tls1_2 -cipher), 'AES128-SHA:@SECLEVEL=0',
        qw(-sigalgs RSA+SHA256 -no_ticket -noservername -connect), '127.0.0.1:' . $s->port(2)), qr/Cipher is AES128-SHA/,
        'a hello without a byte that could be a line feed';
    my $half = Hybrid::Client->new($s->port(2));
    $half->send("\x16\x03\x01\x02");
    my $none = Hybrid::Client->new($s->port);
    $none->send("\x16\x03\x01\x00\x02xx");
    ok idle($s), 'half a hello holds no worker, nor does one that is for nobody';
    my $line = Hybrid::Client->new($s->port);
    $line->send("\x16\x03\x01\x02\0\x01\n");
    is $line->response->{status}, 400, 'nobody waits for the rest of what httpd refuses for its first line';
};

# What comes between core and httpd's reader, and is not known, may have another opinion of where a request ends.
subtest "another module's cipher" => sub {
    my $s = Hybrid::Server->new(probe => 1, conf => "KeepAliveTimeout 20\nListen 127.0.0.1:\@PORT2\@\nHybridProbePort \@PORT2\@ cipher\n")->start;
    my $client = Hybrid::Client->new($s->port(2));
    my $cipher = sub { return join '', map { $_ eq "\r" ? '_' : $_ eq "\n" ? '~' : $_ eq ':' ? '^' : chr(3 + ord) } split //, $_[0] };
    my $answered = 0;
    for my $host (qw(x a b c)) { # x becomes no letter of a method: that shows that it is something else
        $client->send($cipher->("GET / HTTP/1.1\r\nHost: $host\r\n\r\n"));
        my $r = eval { $client->response(limit => 5) } or last;
        $answered++ if $r->{body} eq "hello\n";
    }
    is $answered, 4, 'four requests on one connection';
};

done_testing;
