# SPDX-License-Identifier: Apache-2.0
# Why connections end: each reason of close_reason.def, by what brings it about from outside, on the running server; and
# that what was opened has ended (Hybrid::Count looks after every test, too).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Faults;
use Hybrid::Http2;
use Hybrid::Server;
use Hybrid::Wait;

plan skip_all => 'the reasons are mpm_hybrid\'s' if Hybrid::Server::mpm() ne 'hybrid';

my $one_child = "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 4\n";
my $EPOLL_CTL_ADD = 1;
my %seen;

sub server {
    my ($conf, %option) = @_;
    my $s = Hybrid::Server->new(mpm_conf => $one_child, conf => $conf, modules => ['reqtimeout'], %option);
    $s->make_certificate if $conf =~ /SSLEngine/;
    return $s->start;
}

# What the code brings about adds $count (1) connections to those that have ended for this reason, and none to those of
# other reasons but the ones that ask, which are Answered, and what $option{beside} names.
sub ends_so {
    my ($s, $reason, $what, $code, %option) = @_;
    my $before = $s->ends;
    my @clients = $code->();
    my $now;
    my $count = $option{count} // 1;
    my $enough = wait_for(sub { $now = $s->ends; $now->{"Ended$reason"} - $before->{"Ended$reason"} >= $count }, 15);
    ok $enough, "$reason: $what" or diag "only " . ($now->{"Ended$reason"} - $before->{"Ended$reason"});
    $seen{$reason} = 1 if $enough;
    my %beside = map { $_ => 1 } 'Answered', @{ $option{beside} || [] };
    my @others = grep { /^Ended(.*)/ && $1 ne $reason && !$beside{$1} && $now->{$_} != $before->{$_} } sort keys %$now;
    is "@others", '', '... and for no other';
}

sub idle {
    my ($s) = @_;
    my $client = Hybrid::Client->new($s->port);
    is $client->get('/')->{status}, 200, 'a client has its answer';
    return $client;
}

# It has no session any more: its memory is given back after a second.
sub sleeping {
    my ($s) = @_;
    my $client = idle($s);
    wait_for(sub { $s->log =~ /goes to sleep/ }, 5) or die 'it does not go to sleep';
    return $client;
}

my @with_trace = (level => 'info mpm_hybrid:trace6');

subtest 'its client closes it' => sub {
    my $s = server("KeepAliveTimeout 60\n", @with_trace);
    ends_so($s, 'ClientClosed', 'before a request', sub { Hybrid::Client->new($s->port)->disconnect; () });
    ends_so($s, 'ClientClosed', 'idle', sub { idle($s)->disconnect; () });
    ends_so($s, 'ClientClosed', 'asleep', sub { sleeping($s)->disconnect; () });
    my $tls = server("KeepAliveTimeout 60\n" . Hybrid::Server->tls_vhost, modules => [qw(reqtimeout ssl socache_shmcb)]);
    ends_so($tls, 'ClientClosed', 'inside TLS, with close_notify', sub {
        my $client = Hybrid::Client->new($tls->port(2), tls => 1);
        is $client->get('/')->{status}, 200, 'a client has its answer';
        $client->socket->close(SSL_fast_shutdown => 1);
        ();
    });
    ends_so($s, 'ClientClosed', 'within a request', sub {
        my $client = Hybrid::Client->new($s->port);
        $client->send("GET / HT");
        $client->disconnect;
        ();
    });
};

subtest 'an answer says so' => sub {
    my $s = server("MaxKeepAliveRequests 2\n");
    ends_so($s, 'Answered', 'MaxKeepAliveRequests', sub {
        my $client = Hybrid::Client->new($s->port);
        $client->get("/") for 1 .. 3; # the first is not kept-alive
        ok $client->is_closed(5), 'closed';
        $client->disconnect;
        ();
    });
};

for my $dormant ('On', 'Off') {
    subtest "time-outs, DormantConnections $dormant" => sub {
        my $s = server("KeepAliveTimeout 2\nDormantConnections $dormant\nRequestReadTimeout header=1\nTimeout 2\n");
        ends_so($s, 'IdleTimeout', 'KeepAliveTimeout', sub { idle($s) });
        ends_so($s, 'RequestTimeout', 'half a head', sub {
            my $client = Hybrid::Client->new($s->port);
            $client->send("GET / HTTP/1.1\r\nHo");
            is $client->response->{status}, 408, 'half a head is answered with 408';
            $client->disconnect;
            ();
        });
        $s->file('large', 'x' x 8_000_000);
        ends_so($s, 'IoTimeout', 'an answer that nobody reads', sub {
            my $client = Hybrid::Client->new($s->port, rcvbuf => 8_192);
            $client->send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
            $client;
        });
    };
}

subtest 'broken off' => sub {
    my $s = server("Timeout 30\n");
    $s->file('large', 'x' x 8_000_000);
    ends_so($s, 'Aborted', 'a reset within an answer', sub {
        my $client = Hybrid::Client->new($s->port, rcvbuf => 8_192);
        $client->send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
        $client->read_bytes(1_000);
        $client->reset;
        ();
    });
};

subtest 'by a module, or refused by one' => sub {
    my $s = server("Listen 127.0.0.1:\@PORT2\@ probe\nListen 127.0.0.1:\@PORT3\@ probe\n"
            . "HybridProbePort \@PORT2\@ untouched\nHybridProbePort \@PORT3\@ refuse\n", probe => 1);
    ends_so($s, 'ByModule', 'it is done with it', sub {
        my $client = Hybrid::Client->new($s->port(2));
        $client->send("x\r\n");
        ok $client->is_closed(5), 'closed';
        $client->disconnect;
        ();
    });
    ends_so($s, 'NotSetUp', 'it refuses it', sub {
        my $client = Hybrid::Client->new($s->port(3));
        $client->send("x\r\n");
        ok $client->is_closed(5), 'closed';
        $client->disconnect;
        ();
    });
};

subtest 'reloads, and the end of a child' => sub {
    my $s = server("KeepAliveTimeout 60\n" . Hybrid::Server->tls_vhost('Protocols h2 http/1.1'), modules => [qw(reqtimeout ssl socache_shmcb http2)]);
    ends_so($s, 'Moved', 'idle at a reload', sub { my $client = idle($s); $s->graceful; $client });
    ends_so($s, 'ChildEnds', 'HTTP/2, idle at a reload', sub {
        my $h2 = Hybrid::Http2->new($s->port(2)) or die 'no HTTP/2';
        my $id = $h2->request('/');
        $h2->listen(10, sub { $h2->done($id) });
        is $h2->answer($id)->{status}, 200, 'a stream has its answer';
        $s->graceful;
        $h2->listen(10, sub { $h2->{gone} });
        $h2;
    }, beside => ['Moved']);
    ends_so($s, 'ChildEnds', 'its child ends at once', sub {
        my $client = idle($s);
        $s->signal('TERM', $_) for $s->children;
        ok $client->is_closed(5), 'closed';
        wait_for(sub { eval { $s->get('/')->{status} } }, 10);
        ();
    }, beside => ['Moved', 'ClientClosed']);
    ends_so($s, 'ChildDied', 'its child is killed', sub {
        my $client = idle($s);
        my @before = $s->children;
        $s->signal('KILL', $_) for @before;
        ok $client->is_closed(5), 'closed';
        my %old = map { $_ => 1 } @before;
        wait_for(sub { eval { grep { !$old{$_} } $s->children and $s->get('/')->{status} } }, 10);
        ();
    }, beside => ['Moved', 'ClientClosed', 'ChildEnds']);
};

# Those that are numbered beyond ServerLimit count in one row: one that ends must leave the others' clients in it.
subtest 'more children than slots' => sub {
    my $s = Hybrid::Server->new(probe => 1, mpm_conf => "${one_child}ServerLimit 1\n")->start;
    my @held;
    for my $ms (3_000, 4_000, 8_000) {
        $s->graceful if @held;
        push @held, $s->hold($ms, 2);
    }
    is scalar($s->children), 3, 'three children, one slot';
    is scalar(grep { my $r = $_->response; $_->disconnect; $r->{status} == 200 } @held), 6, 'all clients are answered';
    my $open;
    wait_for(sub { my $ends = $s->ends; ($open = $ends->{ClientsOpened} - $ends->{ClientsEnded}) == 1 && $s->children == 1 }, 10);
    is $open, 1, 'each has ended, and once';
};

subtest 'too many wait' => sub {
    my $s = Hybrid::Server->new(mpm_conf => "${one_child}MaxWaitingRequests 2 7\n", probe => 1)->start;
    ends_so($s, 'Overloaded', '503', sub {
        my @held = $s->hold(1_500, 3); # and one says 503
        my @more = map {
            my $client = Hybrid::Client->new($s->port);
            $client->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            $client;
        } 1 .. 8;
        my @refused = grep { ($_->response->{status} // 0) == 503 } @more;
        ok scalar @refused, 'some hear 503';
        $_->disconnect for @refused;
        $_->response for @held;
        (@more, @held);
    });
};

subtest 'no descriptors' => sub {
    my $s = server("KeepAliveTimeout 60\n", limits => { nofile => 60 });
    ends_so($s, 'Shed', 'idle ones make room', sub {
        my @idle = map { my $client = Hybrid::Client->new($s->port); $client->get('/'); $client } 1 .. 60;
        @idle[ 30 .. 59 ];
    });
};

subtest 'the kernel can\'t watch it' => sub {
    my $faults = Hybrid::Faults->new;
    my $s = server("KeepAliveTimeout 60\n", env => $faults->env);
    ends_so($s, 'NotPolled', 'epoll_ctl fails', sub {
        $faults->on('epoll_ctl', 'ENOSPC', op => $EPOLL_CTL_ADD, what => 'client');
        my $client = Hybrid::Client->new($s->port);
        $client->send('GET / HT');
        ok $client->is_closed(5), 'closed';
        $faults->off;
        $client->disconnect;
        ();
    });
};

my @reasons = map { /^Ended(.+)/ } keys %{ server('')->ends };
cmp_ok scalar @reasons, '>', 10, 'the reasons are known';
is_deeply [ grep { !$seen{$_} && $_ ne 'Unknown' } @reasons ], [], 'each has been seen';

done_testing;
