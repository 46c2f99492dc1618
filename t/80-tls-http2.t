# SPDX-License-Identifier: Apache-2.0
# TLS and HTTP/2: many clients, slow windows, timeouts by SNI, and polite ends (parity H23, H24, S24, X11, X14).

use strict;
use warnings;
use Test::More;
use IO::Socket::SSL;
use Hybrid::Client;
use Hybrid::Load qw(h2load run_command wrk);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();

sub server {
    my ($conf, %option) = @_;
    my $s = Hybrid::Server->new(probe => 1, modules => [qw(ssl socache_shmcb http2)], level => 'info',
        conf => Hybrid::Server->tls_vhost('Protocols h2 http/1.1') . $conf, %option);
    $s->make_certificate;
    return $s;
}

sub https { my ($s, $path) = @_; return 'https://127.0.0.1:' . $s->port(2) . ($path // '/') }

# A connection that speaks HTTP/2 by hand.
sub h2_connect {
    my ($s, $name) = @_;
    my $socket = IO::Socket::SSL->new(PeerAddr => '127.0.0.1', PeerPort => $s->port(2), SSL_verify_mode => 0, Timeout => 10,
        SSL_hostname => $name, SSL_alpn_protocols => ['h2']) or die "TLS: $IO::Socket::SSL::SSL_ERROR";
    die 'not h2' if ($socket->alpn_selected // '') ne 'h2';
    my $headers = "\x82\x87\x84\x41" . chr(length $name) . $name; # GET https / and :authority
    print $socket "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, ''), frame(1, 5, 1, $headers);
    return $socket;
}

sub frame {
    my ($type, $flags, $stream, $payload) = @_;
    return substr(pack('N', length $payload), 1) . pack('CCN', $type, $flags, $stream) . $payload;
}

# The next frame: (type, flags, stream, payload); nothing at the end of the stream.
sub next_frame {
    my ($socket) = @_;
    my $read = sub {
        my ($length) = @_;
        my $bytes = '';
        while (length $bytes < $length) {
            die "no frame in time\n" if !$socket->pending && !IO::Select->new($socket)->can_read(20);
            my $n = sysread $socket, $bytes, $length - length $bytes, length $bytes;
            return if defined $n ? !$n : $SSL_ERROR != SSL_WANT_READ; # a session ticket is no data
        }
        return $bytes;
    };
    my $head = $read->(9) // return;
    my ($high, $low, $type, $flags, $stream) = unpack 'CnCCN', $head;
    my $payload = $read->($high << 16 | $low) // return;
    return ($type, $flags, $stream, $payload);
}

subtest '500 HTTP/2 clients: none fails' => sub {
    my $s = server("EnableSendfile On")->start;
    my $result = h2load(20_000, 500, 10, https($s));
    if ($mpm eq 'event') {
        cmp_ok $result->{failed}, '>', 0, 'difference: event closes connections with requests on them (K01)';
    }
    else {
        is "$result->{succeeded} of $result->{total}, $result->{failed} failed, $result->{errored} errored",
            '20000 of 20000, 0 failed, 0 errored', 'all are answered' or diag $result->{text};
    }
    is $s->get('/')->{status}, 200, 'and the next';
    # Besides that all workers are busy, which is so, and that mod_ssl is older than its library, which may be.
    my @notes = grep { /\[(?!ssl:warn)[^\]]*:(warn|error|crit|alert|emerg)\]/ && !/AH10159|AH00484/ } split /\n/, $s->log;
    is_deeply \@notes, [], 'nothing worth a warning';
};

subtest 'X14: small windows, many streams' => sub {
    my $s = server('', mpm_conf => "StartServers 1\nThreadsPerChild 8\nMaxRequestWorkers 8\nMinSpareThreads 1");
    $s->file('some', 'x' x 100_000);
    $s->start;
    my $result = h2load(1_000, 50, 20, https($s, '/some'), '-w', 10, '-W', 12);
    is "$result->{succeeded} of $result->{total}", '1000 of 1000', '50 clients on 8 workers' or diag $result->{text};
};

subtest 'curl: parallel streams, upgrade, HTTP/1.1 over TLS' => sub {
    my $s = server("Protocols h2c http/1.1");
    $s->file("f$_", "file $_\n") for 1 .. 20;
    $s->start;
    my $text = run_command(30, qw(curl -sk --http2 -Z --parallel-immediate -w), '%{http_version} ',
        (map { ('-o', '/dev/null') } 1 .. 20), map { https($s, "/f$_") } 1 .. 20);
    is +($text =~ /((?:2 )+)$/)[0], '2 ' x 20, 'twenty at once';
    is run_command(30, qw(curl -s --http2 -w), '%{http_version}', $s->url('/f1')), "file 1\n2", 'h2c by Upgrade';
    is run_command(30, qw(curl -s --http2-prior-knowledge -w), '%{http_version}', $s->url('/f1')), "file 1\n2",
        'h2c by prior knowledge';
    is run_command(30, qw(curl -sk --http1.1 -w), '%{http_version}', https($s, '/f1'), '-o', '-', https($s, '/f2')),
        "file 1\n1.1file 2\n1.1", 'kept alive over TLS';
    my $load = wrk(20, 2, https($s, '/f1'));
    is "$load->{errors} $load->{bad}", '0 0', 'a load over TLS';
    cmp_ok $load->{requests}, '>', 100, 'is served';
};

subtest 'S13, close_notify and GOAWAY' => sub {
    my $s = server("KeepAliveTimeout 1")->start;
    my $client = Hybrid::Client->new($s->port(2), tls => 1);
    is $client->get('/')->{body}, "hello\n", 'HTTP/1.1, kept alive';
    ok $client->is_closed(10), 'closed after KeepAliveTimeout';
    # SSL_RECEIVED_SHUTDOWN
    is Net::SSLeay::get_shutdown($client->socket->_get_ssl_object) & 2, 2, 'with a close_notify';

    my $socket = h2_connect($s, 'localhost');
    my @types;
    while (my ($type) = next_frame($socket)) { push @types, $type }
    is $types[-1], 7, 'HTTP/2: GOAWAY comes last';
    ok +(grep { $_ == 0 } @types), 'after the answer';
    is Net::SSLeay::get_shutdown($socket->_get_ssl_object) & 2, 2, 'and a close_notify';
};

subtest 'H23: the timeouts of the host that SNI names' => sub {
    my $s = server(<<'CONF')->start;
KeepAliveTimeout 30
<VirtualHost 127.0.0.1:@PORT2@>
    ServerName quick
    KeepAliveTimeout 1
    Protocols h2 http/1.1
    SSLEngine on
    SSLCertificateFile @ROOT@/cert.pem
    SSLCertificateKeyFile @ROOT@/key.pem
</VirtualHost>
CONF
    my $slow = h2_connect($s, 'localhost');
    my $quick = h2_connect($s, 'quick');
    my $begin = monotonic();
    while (my @frame = next_frame($quick)) { }
    my $took = monotonic() - $begin;
    cmp_ok $took, '<', 8, 'its idle HTTP/2 connection is closed after its KeepAliveTimeout';
    cmp_ok $took, '>', 0.8, 'not before';
    while (my ($type, $flags) = next_frame($slow)) { last if $type == 0 && $flags & 1 }
    ok !IO::Select->new($slow)->can_read(0), 'the other host\'s is still there';
};

subtest 'X11: a handshake that never comes' => sub {
    my $s = server("Timeout 2\nAcceptFilter https none")->start;
    my $silent = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $s->port(2)) or die;
    my $half = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $s->port(2)) or die;
    syswrite $half, "\x16\x03\x01\x02\x00\x01";
    my $begin = monotonic();
    for my $socket ($silent, $half) {
        ok +IO::Select->new($socket)->can_read(15), 'the server closes';
        is sysread($socket, my $bytes, 1), 0, 'without a word';
        cmp_ok monotonic() - $begin, '>', 1.5, 'after Timeout';
    }
};

subtest 'H24: each stream has its own state' => sub {
    plan skip_all => 'worker has none' if $mpm eq 'worker';
    my $s = server('')->start;
    run_command(30, qw(nghttp -n -m 10), https($s));
    my @secondary = grep { $_->{hook} eq 'pre_connection' && $_->{secondary} } $s->probe;
    is scalar(@secondary), 10, 'ten streams';
    is scalar(grep { !$_->{cs} || !$_->{own_cs} } @secondary), 0, 'none with its connection\'s';
};

done_testing;
