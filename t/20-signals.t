# SPDX-License-Identifier: Apache-2.0
# The server's life by signals: start, stop, restart, reload, and what becomes of requests meanwhile (parity G, K05, K06,
# K20, P11).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker says it in other words' if $mpm eq 'worker';

sub server {
    my (%option) = @_;
    return Hybrid::Server->new(probe => 1, mpm_conf => ($option{mpm} // <<'MPM'), conf => $option{conf} // '', crashes => $option{crashes})->start;
StartServers 2
ThreadsPerChild 4
MaxRequestWorkers 16
MinSpareThreads 4
MaxSpareThreads 16
MPM
}

sub gone { my ($s, $pid) = @_; return !Hybrid::Server::_alive($pid) }

subtest 'G01: TERM and INT stop it, and remove the pid file' => sub {
    for my $signal (qw(TERM INT)) {
        my $s = server();
        my @children = $s->children;
        cmp_ok $s->stop(15, $signal), '<', 5, "SIG$signal";
        ok !-e $s->root . '/httpd.pid', 'no pid file is left';
        ok wait_for(sub { !grep { Hybrid::Server::_alive($_) } @children }, 5), 'no child is left';
        like $s->log, qr/AH00491: caught SIGTERM, shutting down/, 'the log says so';
    }
};

subtest 'G02: WINCH stops it gracefully' => sub {
    my $s = server();
    my $client = $s->hold(1500);
    my $idle = Hybrid::Client->new($s->port);
    is $idle->get('/')->{status}, 200, 'an idle connection';
    $s->signal('WINCH');
    ok wait_for(sub { !-e $s->root . '/httpd.pid' }, 5), 'the pid file is removed at once';
    ok wait_for(sub { !eval { Hybrid::Client->new($s->port) } }, 5), 'new connections are refused';
    like $client->response->{body}, qr/^slept/, 'the request in work is answered';
    if ($mpm eq 'hybrid') {
        is $idle->get('/')->{header}{connection}, 'close', 'and so is the next one on the idle connection (K04)';
    }
    ok wait_for(sub { gone($s, $s->{pid}) }, 15), 'then it ends';
    like $s->log, qr/AH00492: caught SIGWINCH, shutting down gracefully/, 'the log says so';
};

subtest 'K06, X23: GracefulShutdownTimeout is kept' => sub {
    my $s = server(conf => 'GracefulShutdownTimeout 2');
    my $client = $s->hold(20_000);
    my $begin = monotonic();
    $s->signal('WINCH');
    ok wait_for(sub { gone($s, $s->{pid}) }, 20), 'it ends before its request';
    my $took = monotonic() - $begin;
    cmp_ok $took, '>', 1.5, 'not before the time';
    if ($mpm eq 'hybrid') { cmp_ok $took, '<', 4, 'and soon after it' }
    else { cmp_ok $took, '>', 4, 'difference: long after it' }
};

subtest 'G03: TERM ends a graceful stop' => sub {
    my $s = server();
    my $client = $s->hold(20_000);
    $s->signal('WINCH');
    $s->wait_log(qr/AH00492/);
    my $begin = monotonic();
    $s->signal('TERM');
    ok wait_for(sub { gone($s, $s->{pid}) }, 20), 'it ends';
    cmp_ok monotonic() - $begin, '<', 4, 'at once' if $mpm eq 'hybrid';
};

subtest 'StopGracefully: TERM is graceful, within a limit' => sub {
    plan skip_all => "$mpm has no such thing" if $mpm ne 'hybrid';
    my $new = sub { my ($limit) = @_; return server(mpm => "StartServers 2\nThreadsPerChild 4\nMaxRequestWorkers 8\nStopGracefully $limit\n") };
    my $s = $new->('20');
    my $client = $s->hold(1_500);
    $s->signal('TERM');
    is $client->response->{status}, 200, 'a request comes to its end';
    ok wait_for(sub { !$s->alive }, 10), 'then the server';
    like $s->log, qr/HYB0016: caught SIGTERM, shutting down gracefully, within 20 seconds/, 'the log says so';

    $s = $new->('2');
    $client = $s->hold(30_000);
    my $time = $s->stop(15);
    cmp_ok $time, '>', 1.5, 'the limit';
    cmp_ok $time, '<', 8, 'is kept';

    $s = $new->('60');
    $client = $s->hold(30_000);
    $s->signal('TERM');
    $s->wait_log(qr/HYB0016/);
    cmp_ok $s->stop, '<', 8, 'a second TERM ends it at once';

    $s = $new->('30 2');
    $client = Hybrid::Client->new($s->port);
    is $client->get('/')->{header}{connection}, undef, 'before: kept alive';
    $s->signal('TERM');
    $s->wait_log(qr/HYB0016/);
    ok wait_for(sub { ($s->get('/')->{body} // '') eq "hello\n" }, 2), 'for a while it serves on';
    ok wait_for(sub { my $new = eval { Hybrid::Client->new($s->port) } or return 0; my $r = eval { $new->get('/') };
        $r && ($r->{header}{connection} // '') eq 'close' }, 2), 'and says goodbye';
    is $client->get('/')->{header}{connection}, 'close', 'to who was here before, too';
    ok wait_for(sub { !$s->alive }, 15), 'then it stops';
    $s = $new->('30 20');
    $s->signal('TERM');
    $s->wait_log(qr/HYB0016/);
    $s->signal('KILL', ($s->children)[0]);
    ok wait_for(sub { $s->log =~ /Child \d stopped.*Child \d started/s }, 5), "a child dies meanwhile, and is replaced";
    is $s->get('/')->{body}, "hello\n", 'it serves';
    cmp_ok $s->stop, '<', 8, 'a second TERM ends this, too';
    for (['5 5', qr/the second time must be less/], ['x', qr/must be "off" or a time/], ['off', qr/Syntax OK/]) {
        my ($argument, $wanted) = @$_;
        like +(Hybrid::Server->new(mpm_conf => "StopGracefully $argument\n")->run('-t'))[1], $wanted, "StopGracefully $argument";
    }
};

subtest 'W21: WINCH and then TERM, as service managers do it: StopGracefully counts' => sub {
    plan skip_all => "$mpm has no such thing" if $mpm ne 'hybrid';
    my $new = sub { my ($limit) = @_; return server(mpm => "StartServers 2\nThreadsPerChild 4\nMaxRequestWorkers 8\nStopGracefully $limit\n") };
    my $s = $new->('20');
    my $client = $s->hold(1_500);
    $s->signal('WINCH');
    $s->signal('TERM');
    is $client->response->{status}, 200, 'a request comes to its end';
    ok wait_for(sub { !$s->alive }, 10), 'then the server';
    $s = $new->('2');
    $client = $s->hold(30_000);
    $s->signal('WINCH');
    $s->wait_log(qr/AH00492/);
    my $took = $s->stop(15);
    cmp_ok $took, '>', 1.5, 'the limit';
    cmp_ok $took, '<', 8, 'is kept';
    $s = $new->('60');
    $client = $s->hold(30_000);
    $s->signal('WINCH');
    $s->wait_log(qr/AH00492/);
    $s->signal('TERM');
    $s->wait_log(qr/HYB0016/);
    cmp_ok $s->stop, '<', 8, 'the second TERM ends it at once';
};

subtest 'S65, K06: stop does not wait for a hanging request' => sub {
    my $s = server();
    my $client = $s->hold(20_000);
    my $took = $s->stop(20);
    cmp_ok $took, '<', 3, 'it has stopped' if $mpm eq 'hybrid';
    ok $client->is_closed(5), 'the client hears it';
};

subtest 'K06: nor does stop after graceful' => sub {
    my $s = server();
    my $client = $s->hold(20_000);
    my ($old) = grep { $_->{hook} eq 'sleep' } $s->probe;
    $s->graceful;
    my $took = $s->stop(25);
    if ($mpm eq 'hybrid') { cmp_ok $took, '<', 3, 'it has stopped' }
    else { cmp_ok $took, '>', 3, 'difference: it waits and has to kill' }
    ok gone($s, $old->{pid}), 'the old child, too';
};

subtest 'G05, B17: HUP restarts, cuts requests off, and counts from zero' => sub {
    my $s = server();
    $s->get('/') for 1 .. 5;
    cmp_ok $s->status->{'Total Accesses'}, '>=', 5, 'accesses were counted';
    my @before = $s->children;
    my $client = $s->hold(8_000);
    $s->restart;
    ok $client->is_closed(5), 'the request in work is cut off';
    my %now = map { $_ => 1 } $s->children;
    is scalar(grep { $now{$_} } @before), 0, 'all children are new';
    cmp_ok $s->status->{'Total Accesses'}, '<', 5, 'the counters begin anew';
    is $s->status->{ParentServerMPMGeneration}, 1, 'the next generation';
    like $s->log, qr/AH00494: SIGHUP received\.  Attempting to restart/, 'the log says so';
};

subtest 'G04: USR1 keeps counters and requests' => sub {
    my $s = server();
    $s->get('/') for 1 .. 5;
    my $client = $s->hold(2_000);
    $s->graceful;
    like $client->response->{body}, qr/^slept/, 'the request in work is answered';
    cmp_ok $s->status->{'Total Accesses'}, '>=', 5, 'the counters go on';
    like $s->log, qr/AH00493: SIGUSR1 received\.  Doing graceful restart/, 'the log says so';
    like $s->log, qr/Child 0 started: pid \d+, gen 0, active \d+\/4, total \d+\/\d+\/16$/m, 'children in event\'s words';
    ok wait_for(sub { $s->log =~ /Child 0 stopped: pid \d+, gen 0, active \d+\/4, total \d+\/\d+\/16, quiescing \d$/m }, 15),
        'their ends, too';
};

subtest 'K05, X22: a reload while all old workers are busy' => sub {
    my $s = server(mpm => "StartServers 1\nServerLimit 4\nThreadsPerChild 2\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 4");
    my @busy = $s->hold(4_000, 2);
    $s->signal('USR1');
    $s->wait_log(qr/AH00493/);
    my $begin = monotonic();
    is $s->get('/')->{status}, 200, 'a new request is answered';
    my $took = monotonic() - $begin;
    cmp_ok $took, '<', 0.7, 'at once' if $mpm eq 'hybrid';
    like $_->response->{body}, qr/^slept/, 'and the old ones are' for @busy;
};

subtest 'G07: a storm of signals ends in the strongest' => sub {
    my $s = server();
    for (1 .. 20) { $s->signal('USR1'); select undef, undef, undef, 0.01 } # a storm has gaps
    $s->signal('HUP');
    ok wait_for(sub { $s->log =~ /AH00494/ && $s->answers }, 20), 'a hard restart after twenty graceful ones';
    is $s->get('/')->{status}, 200, 'it serves';
    $s->signal('USR1');
    $s->signal('HUP');
    $s->signal('TERM');
    ok wait_for(sub { gone($s, $s->{pid}) }, 20), 'and stops when told everything at once';
    unlike $s->log, qr/:(?:crit|alert|emerg)\]|AH00052/, 'without a crash';
};

subtest 'G10: signals to one child' => sub {
    plan skip_all => 'event\'s children ignore them' if $mpm ne 'hybrid';
    my $s = server();
    my ($victim, $other) = $s->children;
    kill 'TERM', $victim;
    ok wait_for(sub { gone($s, $victim) }, 10), 'TERM ends it';
    is $s->get('/')->{status}, 200, 'the server goes on';
    my $client = Hybrid::Client->new($s->port);
    $client->get('/');
    my ($second) = $client->get('/conn')->{body} =~ /pid=(\d+)/;
    kill 'USR1', $second;
    ok wait_for(sub { $s->log =~ /Child \d+ quiescing: pid $second/ || gone($s, $second) }, 10), 'USR1 ends one gracefully';
    is $client->get('/')->{header}{connection}, 'close', 'after its client\'s next answer';
    ok wait_for(sub { gone($s, $second) }, 10), 'then it is gone';
    ok wait_for(sub { $s->children }, 10), 'there are children again';
    is $s->get('/')->{status}, 200, 'the server goes on';
};

subtest 'P11: a crash' => sub {
    my $s = server(crashes => 'it is asked to');
    my $bystander = Hybrid::Client->new($s->port);
    my ($own) = $bystander->get('/conn')->{body} =~ /pid=(\d+)/;
    my $crashed;
    for (1 .. 20) { # until it hits the other child
        my $client = Hybrid::Client->new($s->port);
        ($crashed) = $client->get('/conn')->{body} =~ /pid=(\d+)/;
        next if $crashed == $own;
        $client->send("GET /crash HTTP/1.1\r\nHost: x\r\n\r\n");
        ok $client->is_closed(10), 'its client is cut off';
        last;
    }
    SKIP: {
        skip 'all connections came to one child', 3 if $crashed == $own;
        ok wait_for(sub { $s->log =~ /AH00052: child pid $crashed exit signal/ }, 10), 'the log says who crashed';
        ok wait_for(sub { $s->children == 2 }, 10), 'it is replaced';
        is $bystander->get('/')->{status}, 200, 'others did not notice';
    }
    my ($victim) = $s->children;
    kill 'KILL', $victim;
    ok wait_for(sub { gone($s, $victim) && $s->children == 2 }, 10), 'so is one that is killed';
    is $s->get('/')->{status}, 200, 'it serves';
};

subtest 'K20: a killed parent' => sub {
    my $s = server();
    my @children = $s->children;
    my $client = $s->hold(20_000);
    kill 'KILL', $s->{pid};
    my $all_gone = sub { !grep { Hybrid::Server::_alive($_) } @children };
    if ($mpm eq 'hybrid') {
        ok wait_for($all_gone, 3), 'takes its children along';
        ok !eval { Hybrid::Client->new($s->port) }, 'and the port is free';
    }
    else {
        ok !wait_for($all_gone, 2), 'difference: its children live on';
        ok eval { Hybrid::Client->new($s->port) }, 'and hold the port';
        kill 'KILL', @children;
    }
    delete $s->{pid};
    unlink $s->root . '/httpd.pid';
};

done_testing;
