# SPDX-License-Identifier: Apache-2.0
# Requests over a wire (packets of 1500 bytes at 20 Mbit/s): uploads, heads, tunnels and downloads, to mpm_hybrid and
# mpm_event side by side. Each answer is event's, and comes no later than it would there.

use strict;
use warnings;
use Test::More;
use Digest::MD5 qw(md5_hex);
use File::Path qw(make_path);
use IO::Socket::SSL (); # not when the first client is timed
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(usleep);
use Hybrid::Backends;
use Hybrid::Client;
use Hybrid::Http2;
use Hybrid::Load qw(h2load run_command);
use Hybrid::Pair;
use Hybrid::Server;
use Hybrid::Wire;

my $why_not = Hybrid::Wire::enter();
diag 'wire: ', $why_not eq '' ? 'a network namespace with MTU 1500 and a rate limit' : "a relay, because: $why_not";

my $relay; # in front of both servers, while it is tried: whatever keeps it from its work keeps both
sub port {
    my ($server, $n) = @_;
    my $port = $server->port($n);
    return $relay ? $relay->port($port) : $port;
}

my @around = map { $_ - 1, $_, $_ + 1 } 4096, 8192, 32_768, 65_536;
my @sizes = (1, 100, 1448, @around, 200_000);
my $million = 1_000_000;
my $all = join '', map { md5_hex($_) } 1 .. $million / 32 + 100;
sub body { my ($size) = @_; return substr $all, $size % 1000, $size }

# Backends of both: an httpd with a CGI, php-fpm, and peers of tunnels.
my $digest_script = <<'SH';
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
exec md5sum
SH
my $cgi = <<'CONF';
<IfModule mod_cgid.c>
    ScriptSock @ROOT@/run/cgisock
</IfModule>
ScriptAlias /cgi/ @ROOT@/docs/cgi/
<Directory @ROOT@/docs/cgi>
    Options +ExecCGI
</Directory>
CONF

my $backend = Hybrid::Server->new(mpm => 'event', modules => [qw(alias cgid)], conf => $cgi);
$backend->file('cgi/digest', $digest_script, 0755);
$backend->start;

my $fpm = Hybrid::Backends->php_fpm($backend->root);
my ($web_socket, $echo) = (Hybrid::Backends->web_socket, Hybrid::Backends->echo);

# mod_cgid's daemon forks for a script, or mod_cgi the child itself.
sub server {
    my ($mpm, $n, $cgi_module) = @_;
    my @modules = ($cgi_module, qw(alias dav dav_fs ssl socache_shmcb http2 reqtimeout));
    push @modules, map { "proxy$_" } '', qw(_http _fcgi _wstunnel _connect);
    my @backends = ($backend->root, map { $_->port } $backend, $web_socket, $echo);
    my $ports = Hybrid::Wire::ports($n, $cgi_module eq 'cgi' ? 1 : 0);
    my $s = Hybrid::Server->new(mpm => $mpm, ports => $ports, modules => \@modules, level => 'info',
        conf => sprintf <<'CONF', $cgi, @backends, Hybrid::Server->tls_vhost);
%s
Protocols h2 h2c http/1.1
KeepAliveTimeout 20
MaxKeepAliveRequests 0
DavLockDB @ROOT@/run/davlock
<Directory @DOCS@/dav>
    Dav On
</Directory>
<FilesMatch "\.php$">
    SetHandler "proxy:unix:%s/run/fpm.sock|fcgi://localhost"
</FilesMatch>
ProxyPass /back/ http://127.0.0.1:%d/
ProxyPass /ws http://127.0.0.1:%d/ upgrade=websocket
ProxyRequests On
AllowCONNECT %d
%s
CONF
    $s->make_certificate;
    $s->file('cgi/digest', $digest_script, 0755);
    $s->file('digest.php', '<?php echo md5(file_get_contents("php://input"));');
    utime 1_000_000_000, 1_000_000_000, $s->file('index.html', "hello\n"), $s->file('large', substr $all, 0, $million);
    make_path($s->root . '/docs/dav');
    chmod 0777, $s->root . '/docs/dav';
    return $s->start;
}

my @servers = map { (server(Hybrid::Server::mpm(), 1, $_), server('event', 2, $_)) } 'cgid', 'cgi';
my ($pair, $forking_pair) = map { Hybrid::Pair->new(@servers[ $_, $_ + 1 ]) } 0, 2;
sub pair_for { my ($target) = @_; return $target eq 'mod_cgi' ? $forking_pair : $pair }
sub use_relay { $relay = Hybrid::Wire->relay(map { ($_->port(1), $_->port(2)) } @servers) }
use_relay() if $why_not;

sub client {
    my ($server, $kind, %option) = @_;
    my $client = Hybrid::Client->new(port($server, $kind eq 'TLS' ? 2 : 1), tls => $kind eq 'TLS', limit => 15, %option);
    $client->socket->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
    return $client;
}

# An answer as text. Only of a script's it does not matter whether it is chunked.
sub told {
    my ($client, $server, $target) = @_;
    return text($client->response, $server, $target);
}

sub text {
    my ($response, $server, $target) = @_;
    my $text = Hybrid::Pair::told($response, chunked_or_not => ($target // 'file') !~ /^(?:file|DAV)$/);
    $text =~ s/:$_\b/:PORT/g for map { ($server->port($_), port($server, $_)) } 1, 2;
    return $text;
}

my %target = (
    file => 'POST /index.html', CGI => 'POST /cgi/digest', 'php-fpm' => 'POST /digest.php', proxy => 'POST /back/cgi/digest',
    mod_cgi => 'POST /cgi/digest', DAV => 'PUT /dav/NAME',
);
sub target { my ($target, $name) = @_; return $target{$target} =~ s/NAME/$name \/\/ 'x'/er }

# The head and the body of an upload as they are sent.
sub upload {
    my ($target, $size, $how, $name) = @_;
    my $body = body($size);
    my $head = target($target, $name) . " HTTP/1.1\r\nHost: x\r\n" . ($how =~ /expect/ ? "Expect: 100-continue\r\n" : '');
    return ($head . "Content-Length: $size\r\n\r\n", $body) if $how !~ /chunked/;
    my $chunk = (1000, 8192, $size)[ $size % 3 ];
    my @chunks = map { sprintf "%x\r\n%s\r\n", length, $_ } unpack "(a$chunk)*", $body;
    return ($head . "Transfer-Encoding: chunked\r\n\r\n", join '', @chunks, "0\r\n\r\n");
}

sub stored {
    my ($server, $target, $name) = @_;
    return $target eq 'DAV' ? md5_hex(Hybrid::Server::slurp($server->root . "/docs/dav/$name")) : '';
}

# One after another on a connection, or each on its own.
sub uploads {
    my ($kind, $target, $how, @which) = @_;
    pair_for($target)->same("$kind, to $target, $how", sub {
        my ($server, $note) = @_;
        my $client;
        for my $size (@which) {
            $note->("$size bytes", sub {
                $client = client($server, $kind) if !$client || $how =~ /alone/;
                my $name = join '-', $relay ? 'relay' : 'wire', $kind, $how =~ s/ /-/r, $size;
                my ($head, $body) = upload($target, $size, $how, $name);
                my $continue = '';
                if ($how =~ /expect/) {
                    $client->send($head);
                    $continue = $client->response(head_only => 1)->{status};
                    $client->send($body);
                }
                else {
                    $client->send($head . $body);
                }
                return $continue . told($client, $server, $target) . stored($server, $target, $name);
            });
        }
        $note->('and a GET', sub { $client->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); return told($client, $server) });
    });
}

sub pipelined {
    my ($kind, $target, $how, @which) = @_;
    pair_for($target)->same("$kind, to $target, $how, pipelined", sub {
        my ($server, $note) = @_;
        $note->('all of them', sub {
            my $client = client($server, $kind);
            my %name = map { $_ => join '-', $relay ? 'relay' : 'wire', $kind, "$how-pipelined", $_ } @which;
            $client->send(join '', (map { upload($target, $_, $how, $name{$_}) } @which), "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            my @answers = map { told($client, $server, $target) . stored($server, $target, $name{$_}) } @which;
            return join "\n", @answers, told($client, $server);
        });
    });
}

for my $kind ('plain', 'TLS') {
    for my $target (sort keys %target) {
        uploads($kind, $target, 'kept alive', @sizes, $million);
        uploads($kind, $target, 'expect', @sizes);
        pipelined($kind, $target, 'whole', @sizes);
        next if $target eq 'php-fpm'; # mod_proxy_fcgi forwards only as much of a chunked body as is there at the moment
        uploads($kind, $target, 'chunked', @sizes);
        pipelined($kind, $target, 'chunked', @sizes);
    }
    uploads($kind, $_, 'alone', @sizes) for 'CGI', 'mod_cgi';
}

# Each by a curl of its own (7.88 can't use an unencrypted connection twice), which says how long it took. One of a hundred
# fails at once in its framing layer, with either server: that one is tried again. Not to a file: see below.
sub uploads_h2 {
    my ($kind, $target, @which) = @_;
    my @how = $kind eq 'TLS' ? ('--http2', '--insecure') : '--http2-prior-knowledge';
    pair_for($target)->same("HTTP/2 $kind, to $target", sub {
        my ($server, $note) = @_;
        for my $size (@which) {
            my $file = body_file($server, $size);
            my ($method, $path) = split ' ', target($target, "h2-$kind-$size");
            my $url = ($kind eq 'TLS' ? 'https' : 'http') . '://127.0.0.1:' . port($server, $kind eq 'TLS' ? 2 : 1) . $path;
            $note->("$size bytes", sub {
                my $said;
                for (1 .. 3) {
                    $said = run_command(30, 'curl', '-qsS', '-m', 25, @how, '-X', $method, '--data-binary', "\@$file",
                        '-o', "$file.answer", '-D', "$file.head", '-w', 'took %{time_total}', $url);
                    last if $said !~ /^curl: \((?:16|55|92)\)/m;
                }
                my ($seconds) = $said =~ /^took ([\d.]+)$/ or die "curl: $said\n";
                my ($head, $body) = map { Hybrid::Server::slurp("$file.$_") } 'head', 'answer';
                my $answer = text({ head => $head, body => $body }, $server, $target);
                return ($answer . stored($server, $target, "h2-$kind-$size"), $seconds);
            });
        }
    });
}

sub body_file {
    my ($server, $size) = @_;
    my $file = $server->root . "/body$size";
    open my $out, '>', $file or die "$file: $!";
    print $out body($size);
    close $out;
    return $file;
}

for my $target (grep { $_ ne 'file' } sort keys %target) {
    uploads_h2('plain', $target, @sizes, $million);
    uploads_h2('TLS', $target, @sizes) if $target =~ /cgi|DAV/i;
}

# A file is the answer to a POST, and nobody reads the body: mod_http2 says RST_STREAM without an error when it has
# answered. Then curl fails or waits, with either server; a client of frames goes on with the next on the same connection.
sub uploads_h2_to_file {
    my ($kind, @which) = @_;
    $pair->same("HTTP/2 $kind, to file", sub {
        my ($server, $note) = @_;
        my $h2 = Hybrid::Http2->new(port($server, $kind eq 'TLS' ? 2 : 1), tls => $kind eq 'TLS') or die "no HTTP/2\n";
        $h2->socket->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
        my $told = sub {
            my ($id) = @_;
            $h2->listen(15, sub { $h2->done($id) });
            my $answer = $h2->answer($id) || { lost => 'not answered' };
            return join ' ', map { $answer->{$_} // '' } qw(status lost body);
        };
        $note->("$_ bytes", sub { return $told->($h2->upload('/index.html', body($_), 15)) }) for @which;
        $note->('and a GET', sub { return $told->($h2->request('/index.html')) });
    });
}
uploads_h2_to_file($_, @sizes, $million) for 'plain', 'TLS';

# $count uploads on a connection each, $streams at a time.
sub several_h2 {
    my ($kind, $target, $size, $count, $connections, $streams) = @_;
    pair_for($target)->same("HTTP/2 $kind, to $target, $count of $size bytes, $connections connections, $streams at a time", sub {
        my ($server, $note) = @_;
        my (undef, $path) = split ' ', target($target);
        my $url = ($kind eq 'TLS' ? 'https' : 'http') . '://127.0.0.1:' . port($server, $kind eq 'TLS' ? 2 : 1) . $path;
        $note->('h2load', sub {
            my $load = h2load($count, $connections, $streams, $url, '-d', body_file($server, $size));
            my ($time, $unit) = $load->{text} =~ /finished in ([\d.]+)(us|ms|s)/ or die "h2load: $load->{text}\n";
            my $counts = join ' ', map { "$_ $load->{$_}" } qw(total succeeded failed errored timeout);
            return ($counts, $time / { us => 1e6, ms => 1e3, s => 1 }->{$unit});
        });
    });
}
for my $kind ('plain', 'TLS') {
    several_h2($kind, 'CGI', $_, 10, 1, 1) for 100, 4097, 32_769, 65_537;
    several_h2($kind, $_, 8192, 40, 4, 5), several_h2($kind, $_, 32_769, 40, 4, 5) for 'CGI', 'mod_cgi', 'file';
}

# Lengths of heads, of their fields, and how many there are; Limit* are httpd's own: lines of 8190, a hundred fields.
sub heads {
    my ($kind) = @_;
    my $get = "GET / HTTP/1.1\r\nHost: x\r\n";
    my $field = sub { my ($n, $length) = @_; my $name = "X-$n: "; return $name . 'f' x ($length - length $name) . "\r\n" };
    my $fields = sub { my ($length, @n) = @_; return $get . join('', map { $field->($_, $length) } @n) . "\r\n" };
    my $long = sub { # so many bytes, in fields of 2000 at most
        my ($length) = @_;
        my ($n, $head) = (0, $get);
        while ((my $left = $length - 2 - length $head) > 20) { $head .= $field->(++$n, $left > 2100 ? 2000 : $left - 2) }
        return $head . "\r\n";
    };
    my @heads = (
        (map { [ "a head of $_ bytes", $long->($_) ] } 100, 1000, 1448, @around, 150_000),
        (map { [ "fields of $_ bytes", $fields->($_, 1, 2) ] } 8189, 8190, 8191),
        (map { [ "a line of $_ bytes", 'GET /?' . 'q' x ($_ - 15) . " HTTP/1.1\r\nHost: x\r\n\r\n" ] } 4096, 8190, 8191),
        (map { [ "$_ fields", $fields->(20, 2 .. $_) ] } 99, 100, 101), # Host is the first
        [ 'all there may be', $fields->(8190, 2 .. 100) ],
    );
    $pair->same("$kind, heads", sub {
        my ($server, $note) = @_;
        my $client;
        for (@heads) {
            my ($what, $head) = @$_;
            $note->($what, sub {
                $client ||= client($server, $kind);
                $client->send($head);
                my $response = $client->response;
                undef $client if ($response->{header}{connection} // '') =~ /close/i;
                return text($response, $server);
            });
        }
        $note->('pipelined', sub {
            my @good = grep { length $_->[1] < 10_000 } @heads[ 0 .. 8 ];
            $client ||= client($server, $kind);
            $client->send(join '', map { $_->[1] } @good);
            return join "\n", map { told($client, $server) } @good;
        });
    });
}
heads($_) for 'plain', 'TLS';

# Small frames with the head of the request, right after the answer, and while others are on their way.
sub tunnel {
    my ($what, $kind, $head) = @_;
    $pair->same("$kind, $what", sub {
        my ($server, $note) = @_;
        for my $with ('', 'a frame with the head') {
            my $client;
            $note->($with || 'opened', sub {
                $client = client($server, $kind);
                $client->send($head . $with);
                my $response = $client->response(head_only => 1);
                return text($response, $server) . $client->read_bytes(length $with);
            });
            for my $size (1, 2, 6, 125, 126, 1448, 1449, 4096, 4097, 32_769, 100_000) {
                $note->("a frame of $size", sub {
                    $client->send(body($size));
                    return md5_hex($client->read_bytes($size));
                });
            }
            $note->('many', sub {
                for (1 .. 20) { $client->send(body($_)); usleep(1000) }
                return md5_hex($client->read_bytes(210));
            });
            $client->disconnect;
        }
    });
}
my $echo_at = '127.0.0.1:' . $echo->port;
for my $kind ('plain', 'TLS') {
    tunnel('a WebSocket', $kind, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        . "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    tunnel('CONNECT', $kind, "CONNECT $echo_at HTTP/1.1\r\nHost: $echo_at\r\n\r\n");
}

sub downloads {
    my ($kind) = @_;
    my $get = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
    $pair->same("$kind, downloads", sub {
        my ($server, $note) = @_;
        my $client = client($server, $kind);
        $note->('a file', sub { $client->send($get); return told($client, $server) });
        $note->('two, pipelined', sub { $client->send($get x 2); return told($client, $server) . told($client, $server) });
        $note->('an upload after them', sub {
            $client->send(join '', upload('CGI', 32_769, 'whole'));
            return told($client, $server, 'CGI');
        });
        my $slow = client($server, $kind, rcvbuf => 20_000);
        $note->('a slow reader', sub {
            $slow->send($get);
            while (length $slow->buffered < 400_000) {
                my $n = $slow->fill(20, 10_000) // next;
                die "no more\n" if !$n;
                usleep(5_000);
            }
            return told($slow, $server);
        });
        $note->('and again', sub { $slow->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); return told($slow, $server) });
    });
}
downloads($_) for 'plain', 'TLS';

# The other wire, for those who have no namespaces.
if (!$why_not) {
    use_relay();
    diag 'wire: a relay, for some of it';
    for my $kind ('plain', 'TLS') {
        uploads($kind, 'CGI', 'kept alive', @sizes);
        uploads($kind, 'file', 'chunked', @sizes);
        pipelined($kind, 'DAV', 'whole', @sizes);
        heads($kind);
        downloads($kind);
    }
}
undef $relay;

done_testing;
