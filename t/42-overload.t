# SPDX-License-Identifier: Apache-2.0
# More clients than can be served: who waits is answered or told so, who is idle gives way, and nothing is reset (K01, K14).

use strict;
use warnings;
use File::Temp;
use POSIX ();
use Test::More;
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm closes connections then (K01, K14)" if $mpm ne 'hybrid';

my $three = "StartServers 1\nThreadsPerChild 3\nMaxRequestWorkers 3\nMinSpareThreads 1\nMaxSpareThreads 64\n";

sub server {
    my ($mpm_conf, $conf, %option) = @_;
    return Hybrid::Server->new(mpm_conf => $mpm_conf, level => 'info', probe => 1, modules => ['reqtimeout'],
        conf => "KeepAliveTimeout 20\n" . ($conf // ''), %option);
}

sub ask { my ($client, $path) = @_; $client->send("GET $path HTTP/1.1\r\nHost: localhost\r\n\r\n") }

subtest 'MaxWaitingRequests' => sub {
    my $s = server("${three}MaxWaitingRequests 2 7", Hybrid::Server->tls_vhost . "CustomLog \@ROOT\@/logs/access \"%>s %U\"\n",
        modules => [qw(reqtimeout ssl socache_shmcb)]);
    $s->make_certificate;
    $s->start;
    my $kept = Hybrid::Client->new($s->port);
    $kept->get('/');
    my @kept_tls = map { Hybrid::Client->new($s->port(2), tls => 1) } 1 .. 2;
    $_->get('/') for @kept_tls;
    unlike $s->status->{Scoreboard}, qr/^[^.]{3}/, 'one worker is kept for this';
    my @busy = $s->hold(3_000, 2);
    my $begin = monotonic();
    my @waiting = map { my $c = Hybrid::Client->new($s->port); ask($c, '/?waits'); $c } 1 .. 2;
    ok !$_->is_closed(0.2), 'who waits, waits' for @waiting;
    my @late = map { my $c = Hybrid::Client->new($s->port); ask($c, '/late'); $c } 1 .. 4;
    my @answers = map { $_->response } @late;
    ask($kept, '/late');
    push @answers, $kept->response;
    ask($_, '/late') for @kept_tls;
    push @answers, map { $_->response } @kept_tls;
    cmp_ok monotonic() - $begin, '<', 2.5, 'others are answered while all workers are blocked';
    is join(' ', map { $_->{status} } @answers), join(' ', (503) x 7), '503: new ones, kept-alive ones, over TLS';
    is join(' ', map { $_->{header}{'retry-after'} } @answers), join(' ', (7) x 7), 'Retry-After';
    is join(' ', map { $_->{header}{connection} } @answers), join(' ', ('close') x 7), 'Connection: close';
    is join(' ', map { $_->response->{status} } @waiting, @busy), '200 200 200 200', 'who waited is answered';
    is scalar(() = Hybrid::Server::slurp($s->root . '/logs/access') =~ /^503 \/late$/mg), 7, 'the access log has them';
    is scalar(() = $s->log =~ /mpm_hybrid:warn.*HYB0015: 2 requests wait for a worker: others get 503/g), 1, 'the error log says it once';
    is $s->get('/')->{status}, 200, 'and when there are workers again, nobody is refused';
};

subtest 'W13: the 503 has its ErrorDocument; W28: that all workers are busy is said' => sub {
    my $s = server("StartServers 1\nThreadsPerChild 3\nMaxRequestWorkers 3\nMinSpareThreads 1\nMaxSpareThreads 64\nMaxWaitingRequests 1\n", "ErrorDocument 503 /sorry\n");
    $s->file('sorry', "sorry\n");
    $s->start;
    my @busy = $s->hold(3_000, 2);
    my @waiting = map { my $c = Hybrid::Client->new($s->port); ask($c, '/'); $c } 1;
    ok !$waiting[0]->is_closed(0.2), 'one waits';
    my $late = Hybrid::Client->new($s->port);
    ask($late, '/late');
    my $r = $late->response;
    is "$r->{status} $r->{body}", "503 sorry\n", 'the next one is told so, in the words of the ErrorDocument';
    $s->wait_log(qr/AH00484/, 10);
    pass 'AH00484';
    is scalar(grep { $_->response->{status} == 200 } @busy, @waiting), 3, 'the others are answered';
};

subtest 'MaxWaitingRequests is off by default, and checked' => sub {
    my $s = server($three)->start;
    my @busy = $s->hold(1_500, 3);
    my @waiting = map { my $c = Hybrid::Client->new($s->port); ask($c, '/'); $c } 1 .. 40;
    is scalar(grep { $_->response->{status} == 200 } @waiting, @busy), 43, 'all wait, and are answered';
    for (['0', qr/MaxWaitingRequests must be "off" or a number from 1/], ['1 0', qr/Retry-After must be a time of whole seconds/],
        ['off', qr/Syntax OK/], ['1000 10', qr/Syntax OK/]) {
        my ($argument, $wanted) = @$_;
        like +(server("${three}MaxWaitingRequests $argument")->run('-t'))[1], $wanted, "MaxWaitingRequests $argument";
    }
    my $one = "StartServers 1\nThreadsPerChild 1\nMaxRequestWorkers 1\nMinSpareThreads 1\nMaxSpareThreads 64\n";
    like +(server("${one}MaxWaitingRequests 5")->run('-t'))[1], qr/HYB0014: MaxWaitingRequests of 5 needs a worker of its own/,
        'one worker is not enough';
};

subtest 'K14: no descriptors: who is idle longest gives way' => sub {
    my $s = server("StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 64\n", "KeepAliveTimeout 60\n",
        limits => { nofile => 60 })->start;
    my ($busy) = $s->hold(4_000);
    my @idle;
    for (1 .. 30) { # they fit in
        push @idle, Hybrid::Client->new($s->port);
        $idle[-1]->get('/');
    }
    ok !$_->is_closed(0.05), 'who is idle may stay' for @idle[ 0 .. 3 ];
    my @more = map { my $c = Hybrid::Client->new($s->port); ask($c, '/'); $c } 1 .. 170;
    my $answered = grep { my $r = eval { $_->response(limit => 15) }; $r && $r->{status} == 200 } @more;
    is $answered, 170, '170 more come: all are answered';
    my @closed = map { $_->is_closed(0.01) ? 1 : 0 } @idle;
    like join('', @closed), qr/^1+0*$/, 'for those that were idle longest';
    is $busy->response->{status}, 200, 'what was in work comes to its end';
    is scalar(() = $s->log =~ /HYB0001/g), 1, 'one line in the log';
    undef @more;
    undef @idle;
    is $s->get('/')->{status}, 200, 'then all is well' for 1 .. 5;
    ok wait_for(sub { $s->status->{ConnsTotal} <= 2 }, 10), 'nothing is left';
};

# One client that asks on new connections until told to stop, in a process of its own.
sub asking {
    my ($s, $seconds) = @_;
    my $pid = open(my $out, '-|') // die "fork: $!";
    return $out if $pid;
    my ($asked, $failed, $end) = (0, 0, monotonic() + $seconds);
    while (monotonic() < $end) {
        $asked++;
        my $r = eval { $s->get('/sleep?ms=5') };
        $failed++ if !$r || $r->{status} != 200;
    }
    print "$asked $failed\n";
    close STDOUT;
    POSIX::_exit(0);
}

subtest 'a killed child loses what it was at, and nothing else' => sub {
    my $s = server("StartServers 2\nThreadsPerChild 10\nMaxRequestWorkers 40\nMinSpareThreads 10\nMaxSpareThreads 40\n")->start;
    my @outs = map { asking($s, 4) } 1 .. 4;
    my $kills = 0;
    for (1 .. 3) {
        select undef, undef, undef, 0.7; # the pace, not a wait for anything
        wait_for(sub { my ($victim) = $s->children; $victim && kill 'KILL', $victim }, 5) and $kills++;
    }
    my ($asked, $failed) = (0, 0);
    for my $out (@outs) {
        my ($a, $f) = split ' ', <$out> // '';
        $asked += $a;
        $failed += $f;
        close $out;
    }
    is $kills, 3, 'three children were killed';
    cmp_ok $asked, '>', 300, 'under load';
    cmp_ok $failed, '<=', 4 * $kills, "no more requests failed than were in work ($failed of $asked)";
    is $s->get('/')->{body}, "hello\n", 'it serves on';
};

# accept(2) fails like that a few times, in a library that is preloaded.
for my $error (qw(ENOBUFS ENOMEM EPERM ENFILE)) {
    subtest "K14: $error" => sub {
        my $s = server($three, '', env => { LD_PRELOAD => failing_accept(), FAIL_ACCEPT => "$error 5" })->start;
        my $kept = Hybrid::Client->new($s->port);
        is $kept->get('/')->{status}, 200, 'connections are taken again';
        is scalar(grep { $s->get('/')->{status} == 200 } 1 .. 20), 20, 'and again';
        is $kept->get('/')->{status}, 200, 'one that is there is not touched';
        is scalar(() = $s->log =~ /HYB0001/g), 1, 'one line in the log';
        unlike $s->log, qr/exit signal|AH00102/, 'no child ends';
    };
}

# The library, built here: accept4(2) fails so many times in each process, with this error.
sub failing_accept {
    our $library;
    return $library if $library;
    my $folder = File::Temp::tempdir(CLEANUP => 1);
    chmod 0755, $folder;
    open my $out, '>', "$folder/accept.c" or die $!;
    print $out <<'C';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    static pid_t process;
    static int left;
    const char *wanted = getenv("FAIL_ACCEPT");
    if (process != getpid()) {
        process = getpid();
        left = wanted ? atoi(strchr(wanted, ' ')) : 0;
    }
    if (left > 0) {
        --left;
        errno = !strncmp(wanted, "ENOBUFS", 7) ? ENOBUFS : !strncmp(wanted, "ENOMEM", 6) ? ENOMEM : !strncmp(wanted, "EPERM", 5) ? EPERM : ENFILE;
        return -1;
    }
    return ((int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4"))(fd, address, length, flags);
}
C
    close $out;
    system('cc', '-shared', '-fPIC', '-o', "$folder/accept.so", "$folder/accept.c", '-ldl') == 0 or die 'cc failed';
    return $library = "$folder/accept.so";
}

done_testing;
