# SPDX-License-Identifier: Apache-2.0
# What goes through a connection: files of all sizes arrive whole, small ones are not mapped, one that shrinks hurts nobody;
# and a request is seen whenever it comes (S13, K01).

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(run_command start_command);
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();

sub server {
    my ($conf, %option) = @_;
    my $s = Hybrid::Server->new(probe => 1, modules => [qw(ssl socache_shmcb http2)],
        mpm_conf => "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 64",
        conf => "MaxKeepAliveRequests 0\n" . Hybrid::Server->tls_vhost('Protocols h2 http/1.1') . $conf, %option);
    $s->make_certificate;
    return $s;
}

sub request { my ($path, @more) = @_; return join("\r\n", "GET $path HTTP/1.1", 'Host: localhost', @more) . "\r\n\r\n" }

sub content { my ($size) = @_; return substr join('', map { sprintf '%07d,', $_ } 0 .. $size / 8), 0, $size }

# Minor page faults of the only child so far: a mapped file gives at least one for each time it is served.
sub faults {
    my ($s) = @_;
    my ($child) = $s->children;
    return (split ' ', Hybrid::Server::slurp("/proc/$child/stat") =~ s/.*\) //sr)[7];
}

subtest 'files of all sizes' => sub {
    my @sizes = (0, 1, 7_999, 8_000, 8_001, 32_767, 32_768, 32_769, 40_000, 300_000);
    my $s = server("<Directory \@DOCS\@/sendfile>\n    EnableSendfile On\n</Directory>\n<Directory \@DOCS\@/nommap>\n    EnableMMAP Off\n</Directory>");
    for my $folder ('plain', 'sendfile', 'nommap') {
        mkdir $s->root . "/docs/$folder";
        $s->file("$folder/$_", content($_)) for @sizes;
    }
    $s->start;
    for my $tls (0, 1) {
        my $client = Hybrid::Client->new($s->port(1 + $tls), tls => $tls);
        for my $folder ('plain', 'sendfile', 'nommap') {
            my @bad = grep { $client->get("/$folder/$_")->{body} ne content($_) } @sizes;
            is "@bad", '', "$folder, " . ($tls ? 'TLS' : 'plain HTTP');
        }
        $client->send(join '', map { request("/plain/$_") } @sizes);
        my @bad = grep { $client->response->{body} ne content($_) } @sizes;
        is "@bad", '', 'pipelined';
        is $client->get('/plain/40000', header => "Range: bytes=20001-20010\r\n")->{body}, substr(content(40_000), 20_001, 10), 'a range';
        $client->send("HEAD /plain/8001 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        is $client->response(head_only => 1)->{header}{'content-length'}, 8001, 'HEAD';
        my $etag = $client->get('/plain/1')->{header}{etag};
        is $client->get('/plain/1', header => "If-None-Match: $etag\r\n")->{status}, 304, 'not modified';
    }
    my $h2 = run_command(30, 'sh', '-c', 'for size in "$@"; do curl -sk --http2 ' . 'https://127.0.0.1:' . $s->port(2) . '/plain/$size | md5sum; done', 'sh', @sizes);
    is $h2, join('', map { md5_hex(content($_)) . "  -\n" } @sizes), 'HTTP/2';
};

subtest 'files are read, not mapped' => sub {
    plan skip_all => 'a sanitizer has page faults of its own' if Hybrid::Sanitizer::sanitizer();
    my $s = server('');
    $s->file($_, content($_)) for 3, 32_768, 100_000;
    $s->start;
    my $client = Hybrid::Client->new($s->port);
    for my $size (3, 32_768, 100_000) {
        $client->get("/$size") for 1 .. 20; # what the child keeps is there
        my $before = faults($s);
        $client->get("/$size") for 1 .. 300;
        my $faults = faults($s) - $before;
        if ($mpm eq 'hybrid') { cmp_ok $faults, '<', 150, "$size bytes: no page faults" }
        else { cmp_ok $faults, '>=', 300, "$size bytes, difference: $mpm maps them" }
    }
};

subtest 'a file that shrinks while it is served' => sub {
    plan skip_all => "with $mpm it kills the child (SIGBUS)" if $mpm ne 'hybrid';
    my $s = server("KeepAliveTimeout 60\n<Location /shrunk>\n    SetHandler hybrid-shrunk\n</Location>");
    $s->file('shrunk', 'only this');
    $s->start;
    my ($child) = $s->children;
    for my $tls (0, 1) {
        my $client = Hybrid::Client->new($s->port(1 + $tls), tls => $tls);
        $client->send(request('/shrunk?claim=12000'));
        ok $client->is_closed(10), 'the connection is closed: the rest will not come';
    }
    is $s->get('/')->{status}, 200, 'the server goes on';
    is join(' ', $s->children), $child, 'with the same child';
};

subtest 'a request in a segment of its own, while the one before is worked on' => sub {
    my $s = server('KeepAliveTimeout 60')->start;
    for my $tls (0, 1) {
        my $client = Hybrid::Client->new($s->port(1 + $tls), tls => $tls);
        is $client->get('/')->{status}, 200, 'an ordinary one';
        $client->send(request('/sleep?ms=300'));
        wait_for(sub { grep { $_->{hook} eq 'sleep' } $s->probe }, 10);
        $client->send(request('/conn'));
        like $client->response->{body}, qr/^slept/, 'the first is answered';
        like $client->response->{body}, qr/keepalives=2/, 'and the second';
        unlink $s->root . '/probe';
    }
};

# mod_ssl has to read the file in any case: nothing is left to sendfile(2) (W17).
subtest 'slow readers of a large file over TLS hold no worker' => sub {
    my $size = 8_000_000;
    for my $sendfile ('Off', 'On') {
        my $s = server("EnableSendfile $sendfile");
        $s->file('large', 'x' x $size);
        $s->start;
        my @slow = map { Hybrid::Client->new($s->port(2), tls => 1, rcvbuf => 65_536) } 1 .. 4;
        for (@slow) {
            $_->send(request('/large'));
            $_->read_until(qr/\r\n\r\n/);
        }
        my $others = start_command(30, 'curl', '-s', '-m', $mpm eq 'hybrid' ? 20 : 3, $s->url('/'));
        if ($mpm ne 'hybrid') {
            is $others->(), '', "difference: $mpm has no worker left, with sendfile $sendfile";
            $_->disconnect for @slow;
            next;
        }
        is $others->(), "hello\n", "sendfile $sendfile: there is a worker for others";
        ok wait_for(sub { $s->status->{BusyWorkers} == 1 }, 10), 'none is with a slow reader' or diag $s->status->{Scoreboard};
        is scalar(grep { length $_->read_bytes($size) == $size } @slow), 4, 'who get all of it';
    }
};

# Descriptors of that file which the server's processes have open.
sub opened {
    my ($s, $path) = @_;
    return scalar grep { (readlink // '') eq $path } map { glob "/proc/$_/fd/*" } $s->children;
}

# What a slow reader has not got yet is set aside: that is open as long as it is needed, and what can't be set aside is
# read in (W41).
subtest 'what waits for a slow reader' => sub {
    my $size = 8_000_000;
    my $s = server("KeepAliveTimeout 60\n<Location /lent>\n    SetHandler hybrid-lent\n</Location>");
    my $path = $s->file('lent', 'x' x $size);
    $s->start;
    for my $tls (0, 1) {
        for my $flush (0, 1) {
            my $client = Hybrid::Client->new($s->port(1 + $tls), tls => $tls, rcvbuf => 65_536);
            $client->send(request("/lent?flush=$flush"));
            $client->read_until(qr/\r\n\r\n/);
            my $how = ($tls ? 'TLS' : 'plain HTTP') . ($flush ? ', the handler waits for it' : '');
            ok wait_for(sub { opened($s, $path) == 1 }, 10), "$how: the file is open";
            is length $client->read_bytes($size), $size, 'the file arrives';
            is $client->read_bytes(16), "lent to the MPM\n", 'and what was lent behind it';
            ok wait_for(sub { opened($s, $path) == 0 }, 10), 'the file is closed, and the connection goes on';
            is $client->get('/')->{body}, "hello\n", 'it does';
        }
    }
};

# The header of the first answer has promised to keep the connection already.
subtest 'the same when the child is in a hurry to end' => sub {
    my $s = Hybrid::Server->new(probe => 1, modules => ['rewrite'], conf => <<'CONF');
RewriteEngine On
RewriteMap next prg:@DOCS@/next
CONF
    $s->file('next', "#!/bin/sh\nexec cat\n", 0755);
    $s->start;
    my $client = Hybrid::Client->new($s->port);
    is $client->get('/')->{status}, 200, 'an ordinary one';
    $client->send(request('/sleep?ms=1000&flush=1'));
    wait_for(sub { grep { $_->{hook} eq 'sleep' } $s->probe }, 10);
    $client->send(request('/conn'));
    $s->graceful;
    my $first = $client->response;
    like $first->{body}, qr/^slept/, 'the first is answered';
    is $first->{header}{connection}, undef, 'and the connection is to be kept';
    if ($mpm eq 'hybrid') { like $client->response->{body}, qr/keepalives=2/, 'and the second' }
    else { ok $client->is_closed(10), "difference: $mpm closes" }
};

subtest 'a client that says it has nothing more to ask' => sub {
    my $s = server('KeepAliveTimeout 60')->start;
    my $client = Hybrid::Client->new($s->port);
    $client->send(request('/'));
    $client->half_close;
    is $client->response->{body}, "hello\n", 'is answered';
    ok $client->is_closed(10), 'and closed, long before KeepAliveTimeout';
    $client = Hybrid::Client->new($s->port);
    $client->send(request('/sleep?ms=200'));
    wait_for(sub { grep { $_->{hook} eq 'sleep' } $s->probe }, 10);
    $client->half_close;
    like $client->response->{body}, qr/^slept/, 'so is one that says it later';
    ok $client->is_closed(10), 'and closed';
};

subtest 'a body in pieces' => sub {
    my $s = server('')->start;
    for my $tls (0, 1) {
        my $client = Hybrid::Client->new($s->port(1 + $tls), tls => $tls);
        for my $round (1 .. 3) {
            $client->send("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n");
            for (1 .. 3) {
                $client->send('x' x 10);
                select undef, undef, undef, 0.02; # so that they come one by one, most of the time; nothing waits for it
            }
            is $client->response->{body}, "read 30\n", "upload $round";
        }
        is $client->get('/')->{body}, "hello\n", 'and a request after them';
    }
};

done_testing;
