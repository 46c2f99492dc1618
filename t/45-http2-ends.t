# SPDX-License-Identifier: Apache-2.0
# HTTP/2 connections when their child ends, at reloads, MaxConnectionsPerChild, with too many spare threads, and at graceful
# stops: no stream is lost, whatever the client was about to do (defect W03).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Http2;
use Hybrid::Load qw(h2load);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker reads what is idle itself' if $mpm eq 'worker';
my $hybrid = $mpm eq 'hybrid';
my $HIGHEST = 2**31 - 1;

my $usual = "StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 75\n";

sub server {
    my ($conf, $mpm_conf) = @_;
    my $s = Hybrid::Server->new(probe => 1, modules => [qw(ssl socache_shmcb http2)], level => 'info', mpm_conf => $mpm_conf // $usual,
        conf => Hybrid::Server->tls_vhost('Protocols h2 http/1.1') . "Protocols h2c http/1.1\nKeepAliveTimeout 30\n" . ($conf // ''));
    $s->make_certificate;
    $s->file('big', 'x' x 8_000_000);
    return $s->start;
}

# Both kinds of HTTP/2: their port, and how to connect.
sub kinds { my ($s) = @_; return ([ 'TLS', $s->port(2), tls => 1 ], [ 'h2c', $s->port, tls => 0 ]) }

sub connect_ { my ($port, @how) = @_; return Hybrid::Http2->new($port, @how) // die "no HTTP/2 at port $port" }

# Streams that are answered with 200, in the order of requests; GET and POST by turns.
sub ask {
    my ($h2, $count) = @_;
    my @ids = map { $h2->request($_ % 2 ? ('/') : ('/read', body => 'x' x 500)) } 1 .. $count;
    $h2->listen(20, sub { !grep { !$h2->done($_) } @ids });
    return scalar grep { my $a = $h2->answer($_) // {}; ($a->{status} // '') eq 200 && $a->{whole} } @ids;
}

# Streams that the client may ask again, on another connection.
sub refused { my ($h2) = @_; return scalar grep { ($h2->answer($_) // {})->{lost} && $h2->answer($_)->{lost} eq 'refused' } keys %{ $h2->{stream} } }

sub goaways { my ($h2) = @_; return join ' ', map { "$_->{last}/$_->{error}" } @{ $h2->{goaway} } }

# The client's socket has something to read.
sub hears { my ($h2) = @_; return scalar IO::Select->new($h2->socket)->can_read(20) }

sub ended { my ($h2) = @_; $h2->listen(20); return $h2->{gone} }

sub old_go {
    my ($s, @old) = @_;
    return wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, 20);
}

subtest 'idle over a reload' => sub {
    my $s = server();
    my @clients = map { [ $_->[0], connect_(@$_[ 1 .. $#$_ ]) ] } kinds($s);
    is ask($_->[1], 5), 5, "$_->[0]: five streams are answered" for @clients;
    my @old = $s->children;
    my $begin = monotonic();
    $s->graceful;
    for (@clients) {
        my ($kind, $h2) = @$_;
        ok hears($h2), "$kind: the client hears something at once";
        ok ended($h2), 'the connection ends';
        is goaways($h2), '9/0', 'after a goodbye, without an error, that names the last stream';
    }
    cmp_ok monotonic() - $begin, '<', 15, 'long before KeepAliveTimeout';
    ok old_go($s, @old), 'and the old children go';
};

subtest 'requests that are on the wire when the client is told to go' => sub {
    my $s = server();
    for (kinds($s)) {
        my ($kind, @how) = @$_;
        my $h2 = connect_(@how);
        ask($h2, 1);
        $s->graceful;
        hears($h2) or die 'nothing is said';
        is ask($h2, 20), 0, "$kind: twenty that come after the goodbye are not answered"; # the client has not looked what was said
        is refused($h2), 20, 'but the client knows that it can ask all of them again';
        ok ended($h2), 'then the connection ends';
        is scalar(grep { $_->{error} } @{ $h2->{goaway} }), 0, 'without an error';
    }
};

subtest 'busy over a reload' => sub {
    my $s = server();
    for (kinds($s)) {
        my ($kind, @how) = @$_;
        my $h2 = connect_(@how);
        ask($h2, 1);
        my $slow = $h2->request('/read', hold => 1);
        $h2->data($slow, 'half ');
        is ask($h2, 1), 1, "$kind: a stream is open, and another answered"; # in this order
        my @old = $s->children;
        $s->graceful;
        if ($hybrid) {
            is ask($h2, 30), 30, 'more streams are answered over the reload';
            is goaways($h2), '', 'the client is told nothing';
        }
        $h2->data($slow, 'whole', last => 1);
        $h2->listen(10, sub { $h2->done($slow) });
        my $answer = $h2->answer($slow) // {};
        is $answer->{status}, 200, 'the slow one, too' or diag $answer->{lost} // 'no answer';
        ok ended($h2), 'then the connection ends';
        is scalar(grep { $_->{error} } @{ $h2->{goaway} }), 0, 'without an error' or diag goaways($h2);
        ok old_go($s, @old), 'and the old children go';
    }
};

subtest 'a client that always has a stream open' => sub {
    plan skip_all => 'event ends such connections with an error (AH03402)' if !$hybrid;
    my $s = server("GracefulRestartTimeout 8\n");
    my $h2 = connect_($s->port(2));
    my $open = $h2->request('/read', hold => 1);
    my @ids = $open;
    my $next = sub { # there is one more before the last one ends
        push @ids, $h2->request('/read', hold => 1);
        my $answered = ask($h2, 1);
        $h2->data($open, 'whole', last => 1);
        $h2->listen(0.1, sub { scalar @{ $h2->{goaway} } });
        $open = $ids[-1];
        return $answered;
    };
    $next->() for 1 .. 3;
    my @old = $s->children;
    $s->graceful;
    my $begin = monotonic();
    my $answered = 1;
    $answered &&= $next->() while !@{ $h2->{goaway} } && !$h2->{gone} && monotonic() - $begin < 20;
    ok $answered, 'goes on as before';
    is goaways($h2), "$HIGHEST/0", 'is asked to go elsewhere';
    cmp_ok monotonic() - $begin, '>', 3, 'after a while: half of GracefulRestartTimeout, or 10 s';
    push @ids, map { $h2->request('/') } 1 .. 5; # on the wire
    $h2->data($open, 'whole', last => 1);
    $h2->listen(10, sub { !$h2->waits });
    is scalar(grep { ($h2->answer($_)->{status} // '') ne 200 } @ids), 0, scalar(@ids) . ' streams, none lost';
    ok ended($h2), 'the connection ends';
    ok old_go($s, @old), 'and the old children go';
    unlike $s->log, qr/HYB0012/, 'before GracefulRestartTimeout is over';
};

subtest 'a client that asks for one thing after the other' => sub {
    my $s = server("GracefulRestartTimeout 8\n" x $hybrid);
    my $browser = Hybrid::Http2::Browser->new($s->port(2));
    my @old = $s->children;
    my ($answered, $begin, $told) = (0, monotonic());
    while (monotonic() - $begin < 5) {
        $answered += $browser->fetch(10, $answered % 2 ? ['/'] : [ '/read', body => 'x' x 500 ])->{200} // 0;
        $s->graceful if $answered == 3;
        $browser->idle(0.05);
        $told ||= $browser->{announced} && monotonic() - $begin;
    }
    is_deeply $browser->{failures}, [], "$answered were answered, none was lost";
    ok $told, 'the client has been told to go elsewhere';
    cmp_ok $told, '>', 1, 'after a while: a quarter of GracefulRestartTimeout, or 5 s' if $hybrid;
    ok old_go($s, @old), 'and the old children go';
};

subtest 'connections without a stream' => sub {
    my $s = server();
    for (kinds($s)) {
        my ($kind, @how) = @$_;
        my ($silent, $new) = map { connect_(@how) } 1 .. 2;
        $_->listen(20, sub { $_->{greeted} }) for $silent, $new;
        my @old = $s->children;
        $s->graceful;
        if ($hybrid) {
            is ask($new, 3) + refused($new), 3, "$kind: its first streams are answered, or can be asked again";
            ok ended($_), 'it ends' for $new, $silent;
            is scalar(grep { $_->{error} } map { @{ $_->{goaway} } } $new, $silent), 0, 'without an error';
            ok old_go($s, @old), 'and the old children go';
        }
        else {
            $silent->listen(2);
            ok !$silent->{gone}, "difference: $kind: stays, and its child";
        }
    }
};

subtest 'a client that reads slowly' => sub {
    my $s = server();
    my $h2 = connect_($s->port(2), window => 65_535);
    my $id = $h2->request('/big');
    $h2->listen(20, sub { ($h2->{stream}{$id}{size} // 0) >= 65_535 });
    my @old = $s->children;
    $s->graceful;
    ok !IO::Select->new($h2->socket)->can_read(2), 'is told nothing while it can take nothing';
    while (!$h2->done($id)) {
        $h2->write(join '', map { Hybrid::Http2::frame(8, 0, $_, pack 'N', 500_000) } 0, $id);
        my $before = $h2->{stream}{$id}{size};
        $h2->listen(10, sub { $h2->done($id) || $h2->{stream}{$id}{size} >= $before + 400_000 });
        last if $h2->{stream}{$id}{size} == $before;
    }
    is $h2->{stream}{$id}{size}, 8_000_000, 'and gets all';
    ok ended($h2), 'then the connection ends';
    is scalar(grep { $_->{error} } @{ $h2->{goaway} }), 0, 'without an error';
    ok old_go($s, @old), 'and the old children go';
};

# Clients like browsers, in processes of their own: pages of so many things, a pause, again; they print what they saw.
sub browsers {
    my ($s, $count, $seconds, %option) = @_;
    my @outs;
    for my $number (1 .. $count) {
        my $pid = open(my $out, '-|') // die "fork: $!";
        push @outs, $out;
        next if $pid;
        my $browser = Hybrid::Http2::Browser->new($number % 2 ? $s->port(2) : $s->port, tls => $number % 2);
        my $end = monotonic() + $seconds;
        my $answered = 0;
        for (my $page = 0; monotonic() < $end; $page++) {
            my $many = $option{page} // ($page % 2 ? 1 : 60);
            my $statuses = $browser->fetch(20, map { $_ % 2 ? ['/'] : [ '/read', body => 'x' x 500 ] } 1 .. $many);
            $answered += $statuses->{200} // 0;
            $browser->idle($number % 3 ? 0.03 : 0);
            delete $browser->{h2} if $option{anew};
        }
        my %why;
        $why{$_}++ for @{ $browser->{failures} };
        print "answered=$answered connections=$browser->{connections} retried=$browser->{retried} silent=$browser->{silent} failed="
            . @{ $browser->{failures} } . ' ' . join(', ', map { "$why{$_} x $_" } sort keys %why) . "\n";
        close STDOUT;
        POSIX::_exit(0);
    }
    return sub {
        my (%sum, @why);
        for my $out (@outs) {
            my $line = <$out> // '';
            $sum{$1} += $2 while $line =~ /(\w+)=(\d+)/g;
            push @why, $line if $line !~ /failed=0/;
            close $out;
        }
        return (\%sum, join '', @why);
    };
}

sub lose_nothing {
    my ($sum, $why) = @_;
    cmp_ok $sum->{answered}, '>', 500, "$sum->{answered} requests were answered";
    my $lost = $sum->{failed} + $sum->{silent};
    is "$sum->{failed} failed, $sum->{silent} silent closes", '0 failed, 0 silent closes', 'none was lost' or diag $why if $hybrid;
    note "on $mpm: $lost lost\n$why" if !$hybrid;
    note "$sum->{retried} were asked again";
}

subtest 'pages of 300, and a reload every half second' => sub {
    my $s = server();
    my $end = browsers($s, 4, 5, page => 300);
    for (1 .. 8) { $s->graceful; select undef, undef, undef, 0.4 } # the pace of the load, not a wait for anything
    lose_nothing($end->());
};

subtest 'many clients with pauses, and a reload every half second' => sub {
    my $s = server();
    my $end = browsers($s, 8, 5);
    for (1 .. 8) { $s->graceful; select undef, undef, undef, 0.4 } # as above
    lose_nothing($end->());
    unlike $s->log, qr/:(?:error|crit|alert|emerg)\]/, 'and the log is quiet' if $hybrid;
};

subtest 'MaxConnectionsPerChild' => sub {
    my $s = server('', "$usual\nMaxConnectionsPerChild 30\n");
    my $first = join ' ', $s->children;
    my $end = browsers($s, 3, 5);
    my $anew = browsers($s, 3, 5, anew => 1);
    lose_nothing($end->());
    lose_nothing($anew->());
    ok wait_for(sub { $s->get('/'); join(' ', $s->children) ne $first }, 20), 'children were replaced';
};

subtest 'MaxSpareThreads' => sub {
    my $s = server('', "StartServers 6\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 50\n");
    my $most = $s->children;
    my $end = browsers($s, 6, 8);
    lose_nothing($end->());
    ok wait_for(sub { $s->children < $most }, 20), 'children have gone';
};

subtest 'a graceful stop' => sub {
    my $s = server("GracefulShutdownTimeout 20\n");
    my ($idle, $busy) = map { connect_($s->port(2)) } 1 .. 2;
    ask($idle, 1);
    my @slow = map { $busy->request('/sleep?ms=1500') } 1 .. 5;
    wait_for(sub { 5 <= grep { $_->{hook} eq 'sleep' } $s->probe }, 10) or die 'no worker took them';
    $s->signal('WINCH');
    ok ended($idle), 'an idle connection ends';
    $busy->listen(20, sub { !$busy->waits });
    is scalar(grep { ($busy->answer($_)->{status} // '') eq 200 } @slow), 5, 'a busy one is served';
    ok ended($busy), 'and ends then';
    is scalar(grep { $_->{error} } map { @{ $_->{goaway} } } $idle, $busy), 0, 'both without an error';
    ok wait_for(sub { !$s->alive }, 20), 'the server has gone';
};

subtest 'StopGracefully: clients hear the goodbye when they are idle' => sub {
    plan skip_all => "$mpm has no such thing" if !$hybrid;
    my $s = server("StopGracefully 20 6\n");
    my %pause = (restless => 0.05, calm => 0.8);
    my %browser = map { $_ => Hybrid::Http2::Browser->new($s->port(2)) } keys %pause;
    $_->fetch(10, (['/']) x 5) for values %browser;
    # One asks nothing more: it must not wait until the goodbye is over.
    my $idle = Hybrid::Http2->new($s->port(2));
    my $stream = $idle->request('/');
    $idle->listen(5, sub { $idle->done($stream) });
    $s->signal('TERM');
    $s->wait_log(qr/HYB0016/);
    $idle->listen(4, sub { @{ $idle->{goaway} } });
    is scalar(@{ $idle->{goaway} }), 1, 'who is idle hears it first';
    my ($answered, $end, %due) = (0, monotonic() + 4.5);
    while ((my $now = monotonic()) < $end) {
        for (keys %browser) {
            next if $now < ($due{$_} // 0);
            $answered += $browser{$_}->fetch(10, (['/']) x 10)->{200} // 0;
            $due{$_} = monotonic() + $pause{$_};
        }
        $_->idle(0.02) for values %browser;
    }
    cmp_ok $answered, '>', 20, "$answered are answered meanwhile";
    for (sort keys %browser) {
        is_deeply $browser{$_}->{failures}, [], "$_: none is lost";
        cmp_ok $browser{$_}->{announced}, '>', 0, 'a connection ends';
    }
    ok wait_for(sub { !$s->alive }, 30), 'then the server stops';
};

done_testing;
