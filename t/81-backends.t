# SPDX-License-Identifier: Apache-2.0
# Work that is done elsewhere: proxied requests and tunnels, php-fpm, CGI (parity H25, S24, X29).

use strict;
use warnings;
use Test::More;
use Hybrid::Backends;
use Hybrid::Client;
use Hybrid::Load qw(run_command wrk);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
my $two_children = "StartServers 2\nThreadsPerChild 4\nMaxRequestWorkers 8\nMinSpareThreads 1\nMaxSpareThreads 8";

subtest 'H25: mod_proxy_http, both ends reloaded under load' => sub {
    my $back = Hybrid::Server->new(probe => 1)->start;
    my $front = Hybrid::Server->new(probe => 1, modules => [qw(proxy proxy_http)],
        conf => sprintf("ProxyPass / http://127.0.0.1:%d/ retry=0\n", $back->port))->start;
    is $front->get('/')->{body}, "hello\n", 'a request';
    my $client = Hybrid::Client->new($front->port);
    $client->send("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" . 'x' x 200_000);
    is $client->response->{body}, "read 200000\n", 'an upload';
    is $client->get('/')->{body}, "hello\n", 'the next on the same connection';
    my @ours = grep { $_->{hook} eq 'pre_connection' && $_->{outgoing} } $front->probe;
    cmp_ok scalar(@ours), '>', 0, 'connections to the backend';
    is scalar(grep { $_->{cs} } @ours), 0, 'are not ours to keep';
    my $pid = fork // die;
    if (!$pid) { # reloads, while the load is on
        for (1 .. 4) { select undef, undef, undef, 0.4; kill 'USR1', $front->pid }
        POSIX::_exit(0);
    }
    my $load = wrk(16, 3, $front->url('/'));
    waitpid $pid, 0;
    is $load->{bad}, 0, 'no bad answer' or diag $load->{text};
    is $load->{errors}, 0, 'none lost' or diag $load->{text} if $mpm eq 'hybrid';
};

subtest 'a tunnel holds one worker, and outlives a reload' => sub {
    my $backend = Hybrid::Backends->web_socket;
    my $s = Hybrid::Server->new(mpm_conf => $two_children, modules => [qw(proxy proxy_http proxy_wstunnel)],
        conf => sprintf("ProxyPass /ws http://127.0.0.1:%d/ upgrade=websocket\n", $backend->port))->start;
    my $client = Hybrid::Client->new($s->port);
    $client->send("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        . "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    like $client->read_until(qr/\r\n\r\n/), qr/^HTTP\/1\.1 101 /, 'switched';
    $client->send('one');
    is $client->read_bytes(3), 'one', 'and back';
    my $idle = Hybrid::Client->new($s->port);
    is $idle->get('/')->{status}, 200, 'others are served';
    $s->graceful;
    $client->send('two');
    is $client->read_bytes(3), 'two', 'after a reload, too';
    $client->disconnect;
    is $s->get('/')->{status}, 200, 'it goes on';
};

subtest 'mod_proxy_fcgi and php-fpm' => sub {
    my $s = Hybrid::Server->new(modules => [qw(proxy proxy_fcgi)], conf => <<'CONF');
<FilesMatch "\.php$">
    SetHandler "proxy:unix:@ROOT@/run/fpm.sock|fcgi://localhost"
</FilesMatch>
CONF
    $s->file('hello.php', '<?php echo "php ", $_GET["n"], " ", strlen(file_get_contents("php://input")), "\n";');
    my $fpm = Hybrid::Backends->php_fpm($s->root);
    $s->start;
    is $s->get('/hello.php?n=1')->{body}, "php 1 0\n", 'a script';
    my $client = Hybrid::Client->new($s->port);
    $client->send("POST /hello.php?n=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" . 'x' x 100_000);
    is $client->response->{body}, "php 2 100000\n", 'with a body';
    is $client->get('/hello.php?n=3')->{body}, "php 3 0\n", 'kept alive';
    my $load = wrk(32, 2, $s->url('/hello.php?n=4'));
    is $load->{bad}, 0, 'no bad answer under load' or diag $load->{text};
    is $load->{errors}, 0, 'none lost' or diag $load->{text} if $mpm ne 'event'; # K01
    cmp_ok $load->{requests}, '>', 50, 'it is served';
};

my $cgi = <<'CONF';
ScriptAlias /cgi/ @ROOT@/docs/cgi/
<Directory @ROOT@/docs/cgi>
    Options +ExecCGI
    SetHandler cgi-script
</Directory>
CONF

# Writes its pid, a line every now and then, and "end" when it is not interrupted.
my $slow_script = <<'SH';
#!/bin/sh
exec 3>"$DOCUMENT_ROOT/../run/$QUERY_STRING"
echo $$ >&3
printf 'Content-Type: text/plain\r\n\r\n'
i=0
while [ $i -lt 30 ]; do echo "line $i"; i=$((i + 1)); sleep 0.1; done
echo end
echo end >&3
SH

for my $module (qw(cgid cgi)) {
    subtest "S24: mod_$module: two slow scripts in two children, one is given up" => sub {
        my $s = Hybrid::Server->new(probe => 1, mpm_conf => "StartServers 2\nThreadsPerChild 2\nMaxRequestWorkers 4\nMinSpareThreads 1",
            modules => ['alias', $module], conf => $cgi . ($module eq 'cgid' ? "ScriptSock \@ROOT\@/run/cgisock\n" : ''));
        $s->file('cgi/slow', $slow_script, 0755);
        $s->file('cgi/echo', "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nwc -c\n", 0755);
        $s->start;
        my $client = Hybrid::Client->new($s->port);
        $client->send("POST /cgi/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" . 'x' x 50_000);
        is $client->response->{body} + 0, 50_000, 'a script with a body';
        $client->disconnect;
        my %pid;
        my $slow = sub {
            my ($name) = @_;
            my $c = Hybrid::Client->new($s->port);
            $c->send("GET /cgi/slow?$name HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            $pid{$name} = wait_for(sub { open my $in, '<', $s->root . "/run/$name" or return; my $n = <$in>; $n && $n + 0 }, 10);
            return $c;
        };
        my %slow = map { $_ => $slow->($_) } qw(a b c);
        my %serving = map { $_->{pid} => 1 } grep { $_->{hook} eq 'process_connection' } $s->probe;
        is scalar(keys %serving), 2, 'three scripts on two children of two workers';
        ok $pid{a} && $pid{b} && $pid{c}, 'they run';
        $slow{a}->read_until(qr/line 2/);
        $slow{a}->reset;
        ok wait_for(sub { !kill 0, $pid{a} }, 10), 'the one that is given up is ended';
        for my $name (qw(b c)) {
            like $slow{$name}->response->{body}, qr/line 29\nend\n$/, "$name comes to its end";
        }
        open my $in, '<', $s->root . '/run/a' or die;
        unlike join('', <$in>), qr/end/, 'the first did not';
    };
}

done_testing;
