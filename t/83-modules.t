# SPDX-License-Identifier: Apache-2.0
# Modules that look at connections, requests and logs in ways of their own (parity S25, S26, X18, X29).

use strict;
use warnings;
use Test::More;
use IO::Select;
use Hybrid::Client;
use Hybrid::Load qw(wrk);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
my $small = "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 4";

subtest 'S26: RemoteIPProxyProtocol' => sub {
    my $s = Hybrid::Server->new(modules => [qw(remoteip ssl socache_shmcb)], mpm_conf => $small,
        conf => Hybrid::Server->tls_vhost('RemoteIPProxyProtocol On') . <<'CONF');
Listen 127.0.0.1:@PORT3@
<VirtualHost 127.0.0.1:@PORT3@>
    RemoteIPProxyProtocol On
</VirtualHost>
LogFormat "%a %U" addr
CustomLog @ROOT@/logs/access addr
CONF
    $s->make_certificate;
    $s->start;
    my $client = Hybrid::Client->new($s->port(3));
    $client->send("PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\nGET /v1 HTTP/1.1\r\nHost: x\r\n\r\n");
    is $client->response->{status}, 404, 'version 1';
    is $client->get('/v1again')->{status}, 404, 'kept alive';
    $client = Hybrid::Client->new($s->port(3));
    my $v2 = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\7\xc0\0\2\2\x12\x67\0\x50";
    $client->send(substr $v2, 0, 9); # in two pieces
    $client->send(substr($v2, 9) . "GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n");
    is $client->response->{status}, 404, 'version 2';
    $client = Hybrid::Client->new($s->port(3));
    $client->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    ok $client->is_closed(10), 'none: closed';
    my $raw = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $s->port(2)) or die;
    syswrite $raw, "PROXY TCP4 192.0.2.9 192.0.2.2 4711 443\r\n";
    require IO::Socket::SSL;
    IO::Socket::SSL->start_SSL($raw, SSL_verify_mode => 0) or die $IO::Socket::SSL::SSL_ERROR;
    print $raw "GET /tls HTTP/1.0\r\n\r\n";
    like scalar(<$raw>), qr/ 404 /, 'before TLS';
    # Beside them there are those without an address of theirs: who has looked whether the server answers.
    my $logged = sub { join ', ', sort grep { /^192/ } split /\n/, Hybrid::Server::slurp($s->root . '/logs/access') };
    my $all = '192.0.2.1 /v1, 192.0.2.1 /v1again, 192.0.2.7 /v2, 192.0.2.9 /tls';
    wait_for(sub { length $logged->() >= length $all }, 10);
    is $logged->(), $all, 'all are logged, with the addresses they were said to have';
};

subtest 'mod_echo' => sub {
    my $s = Hybrid::Server->new(modules => ['echo'], mpm_conf => $small, conf => <<'CONF')->start;
Listen 127.0.0.1:@PORT2@ echo
<VirtualHost 127.0.0.1:@PORT2@>
    ProtocolEcho On
</VirtualHost>
CONF
    my @clients = map { Hybrid::Client->new($s->port(2)) } 1 .. 3;
    for my $round (1 .. 3) {
        for my $client (@clients) {
            $client->send("round $round\n");
            is $client->read_until(qr/\n/), "round $round\n", 'what was said';
        }
    }
    $_->disconnect for @clients;
    is $s->get('/')->{status}, 200, 'HTTP beside it';
};

subtest 'mod_reqtimeout' => sub {
    my $s = Hybrid::Server->new(modules => ['reqtimeout'], mpm_conf => $small,
        conf => "RequestReadTimeout header=1 body=1\nKeepAliveTimeout 30\n")->start;
    my $client = Hybrid::Client->new($s->port);
    $client->send("GET / HTTP/1.1\r\nHos");
    is $client->response(limit => 10)->{status}, 408, 'half a header: 408';
    ok $client->is_closed(10), 'and closed';
    ok wait_for(sub { $s->status->{ConnsAsyncClosing} == 0 }, 15), 'waited for only shortly (short-lingering-close)';
    $client = Hybrid::Client->new($s->port);
    is $client->get('/')->{status}, 200, 'a whole one';
    ok !$client->is_closed(2), 'is not held to it while idle';
    $client->send("GET / HTTP/1.1\r\nHos");
    is $client->response(limit => 10)->{status}, 408, 'the next one is';
};

subtest 'rewrite-heavy' => sub {
    my $rules = join '', map { "RewriteCond %{HTTP_USER_AGENT} !^agent$_\nRewriteRule ^/no$_/(.*)\$ /gone$_/\$1 [L]\n" } 1 .. 300;
    my $s = Hybrid::Server->new(modules => ['rewrite'], mpm_conf => $small, conf => <<"CONF");
RewriteEngine On
RewriteMap upper int:toupper
RewriteMap next prg:\@DOCS\@/next
$rules
RewriteRule ^/map/(.*)\$ /\${next:\$1} [L]
RewriteRule ^/loop(.*)\$ - [E=seen:\${upper:\$1}]
CONF
    $s->file('next', "#!/usr/bin/perl\n\$| = 1;\nwhile (<STDIN>) { chomp; print \"file\$_\\n\" }\n", 0755);
    $s->file("file$_", "I am $_\n") for 1 .. 9;
    $s->start;
    is $s->get("/map/$_")->{body}, "I am $_\n", "a program says where to: $_" for 1 .. 3;
    my $load = wrk(16, 2, $s->url('/map/7'));
    is $load->{bad}, 0, 'under load' or diag $load->{text};
    is $load->{errors}, 0, 'none lost' or diag $load->{text} if $mpm ne 'event';
    $s->graceful;
    is $s->get('/map/9')->{body}, "I am 9\n", 'and after a reload';
};

# Every request that was answered is in the log once, over reloads and the end.
for my $kind (['rotatelogs', '|/usr/bin/rotatelogs @ROOT@/logs/access.%s 86400', ''],
              ['BufferedLogs', '@ROOT@/logs/access.all', 'BufferedLogs On']) {
    my ($name, $target, $more) = @$kind;
    subtest $name => sub {
        my $s = Hybrid::Server->new(mpm_conf => $small, conf => <<"CONF")->start;
$more
LogFormat "%U" path
CustomLog "$target" path
CONF
        my $sent = 0;
        my $lines = sub { scalar grep { /index/ } map { split /\n/, Hybrid::Server::slurp($_) } glob $s->root . '/logs/access.*' };
        for my $round (1 .. 3) {
            for (1 .. 20) { is $s->get('/index.html?' . ++$sent)->{status}, 200, 'a request' }
            # httpd ends the program with the configuration, read or not; a line must have arrived before that.
            wait_for(sub { $lines->() == $sent }, 10) if $name eq 'rotatelogs';
            $s->graceful if $round < 3;
        }
        $s->stop;
        ok wait_for(sub { $lines->() >= $sent }, 10), 'every request is there';
        is $lines->(), $sent, 'once';
    };
}

subtest 'filters that take their time: mod_ratelimit, mod_ext_filter, mod_deflate' => sub {
    my $s = Hybrid::Server->new(modules => [qw(ratelimit ext_filter filter deflate env)], mpm_conf => $small, conf => <<'CONF');
<Location /slow>
    SetOutputFilter RATE_LIMIT
    SetEnv rate-limit 200
</Location>
ExtFilterDefine rot13 mode=output cmd="/usr/bin/tr a-z n-za-m"
<Location /rot13>
    SetOutputFilter rot13
</Location>
<Location /packed>
    SetOutputFilter DEFLATE
</Location>
CONF
    $s->file('slow', 'x' x 300_000);
    $s->file('rot13', "uryyb\n");
    $s->file('packed', 'y' x 100_000);
    $s->start;
    my $begin = monotonic();
    is length $s->get('/slow')->{body}, 300_000, 'slowly';
    cmp_ok monotonic() - $begin, '>', 0.8, 'at its rate';
    is $s->get('/rot13')->{body}, "hello\n", 'through a program';
    is $s->get('/packed', "Accept-Encoding: gzip\r\n")->{header}{'content-encoding'}, 'gzip', 'packed';
};

done_testing;
