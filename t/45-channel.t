# SPDX-License-Identifier: Apache-2.0
# The channel between the children, from outside: nonsense in it, no descriptor for what it brings, no channel at all
# (W30, W38, W39), nudges.

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Descriptors;
use Hybrid::Load qw(run_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm has no channel" if $mpm ne 'hybrid';

my $two = "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 32\nMinSpareThreads 8\nMaxSpareThreads 32\n";

sub server {
    my ($conf, %option) = @_;
    return Hybrid::Server->new(mpm_conf => $two, modules => ['reqtimeout'], level => 'info mpm_hybrid:debug',
        conf => "KeepAliveTimeout 60\nMaxKeepAliveRequests 0\nTimeout 60\nRequestReadTimeout header=60\n$conf", %option);
}

# Something small in C or C++, built for one test.
sub build {
    my ($what, @command) = @_;
    my $out = "$ENV{HYBRID_SO}.$what";
    my $said = run_command(120, @command, '-o', $out);
    -e $out or BAIL_OUT("can't build $what: $said");
    return $out;
}

sub replaced {
    my ($s, $limit, @old) = @_;
    return wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, $limit);
}

subtest 'W30: nonsense in the channel of a running server' => sub {
    plan skip_all => 'only root gets at it' if $> != 0;
    my $throw = build('throw', qw(g++ -std=c++20 -x c++), "-I$ENV{HYBRID_TOP}/include", "$ENV{HYBRID_TOP}/t/fuzz/throw.c++",
        "$ENV{HYBRID_TOP}/src/channel.c++");
    my $s = server('')->start;
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 10;
    $_->get('/') for @clients;
    my @children = $s->children;
    my $count = sub { # but what the watchdog opens
        my $count = 0;
        $count += grep { !m{^/proc/} } Hybrid::Count::targets($_) for @children;
        return $count;
    };
    my $quiet = sub { # what is left of the thrown ones are connections that time out
        my $before = -1;
        return wait_for(sub { my $now = $count->(); my $same = $now == $before; $before = $now; select undef, undef, undef, 0.2; $same }, 30) && $before;
    };
    like run_command(60, $throw, $s->{pid}, 200, 1), qr/^thrown 200/, 'two hundred are thrown';
    $s->get('/') for 1 .. 4; # both have opened what they need
    my $begin = $quiet->();
    for my $seed (2 .. 4) {
        like run_command(60, $throw, $s->{pid}, 500, $seed), qr/^thrown 500/, 'five hundred more';
        is $s->get('/')->{body}, "hello\n", 'the server answers';
    }
    is scalar(grep { my $r = eval { $_->get('/') }; $r && $r->{body} eq "hello\n" } @clients), 10, 'its clients go on';
    is_deeply [ $s->children ], \@children, 'the children are the same';
    # What was right by chance is a connection whose client has gone.
    ok wait_for(sub { $count->() <= $begin + 2 }, 30), 'no descriptor has stayed' or diag "$begin before, " . $count->();
    my %said;
    $said{$_}++ for $s->log =~ /pid (\d+).*HYB0027: what came from another process is no client's connection, dropped \(\d+ so far\)/g;
    cmp_ok scalar(keys %said), '>', 0, 'the log says so';
    is scalar(grep { $_ > 1 } values %said), 0, 'once a minute';
    unlike $s->log, qr/exit signal|AH00052|:(?:crit|alert|emerg)\]/, 'nobody has crashed';
    my @old = $s->children;
    $s->graceful;
    ok replaced($s, 10, @old), 'a reload';
    is scalar(grep { my $r = eval { $_->get('/') }; $r && $r->{body} eq "hello\n" } @clients), 10, 'and its clients go on';
};

# The probe's hoard has all descriptors of the new children, while the former ones send their clients.
subtest 'W38: who has no descriptor takes nothing out of the channel' => sub {
    my $s = server("HybridProbeHoard \@ROOT\@/hoard 1500\n", probe => 1, limits => { nofile => 300 });
    $s->start;
    my @half = map { Hybrid::Client->new($s->port) } 1 .. 12;
    $_->send("GET / HTTP/1.1\r\nHo") for @half;
    ok wait_for(sub { $s->status->{ConnsTotal} >= 12 }, 10), 'twelve have connected, and said half a word';
    my @old = $s->children;
    open my $flag, '>', $s->root . '/hoard' or die $!;
    $s->signal('USR1');
    ok replaced($s, 20, @old), 'a reload';
    unlink $s->root . '/hoard';
    ok wait_for(sub { grep { $_->{hook} eq 'hoard' } $s->probe }, 10), 'the new children had no descriptor';
    $_->send("st: x\r\n\r\n") for @half;
    my @kept = grep { my $r = eval { $_->response }; $r && $r->{body} eq "hello\n" } @half;
    is scalar(@kept), 12, 'all twelve are answered when there are some again';
};

# Descriptors that the child polls and no longer has: closing them did not end the polling, because others have the same
# socket.
sub polled_in_vain {
    my ($pid) = @_;
    my @polled = map { Hybrid::Server::slurp($_) =~ /^tfd:\s+(\d+)/mg } glob "/proc/$pid/fdinfo/*";
    return grep { !-e "/proc/$pid/fd/$_" && -e "/proc/$pid/fd" } @polled;
}

sub listening {
    my ($pid) = @_;
    my %held = held($pid);
    my %sockets = Hybrid::Descriptors::sockets();
    return grep { $held{$_} =~ /^socket:\[(\d+)\]/ && ($sockets{$1} // '') eq 'listening' } keys %held;
}

# What a child sends that leaves clients to others: one of them is to look. It goes into both ends; nobody reads the one.
sub nudge {
    my ($parent) = @_;
    my ($SYS_pidfd_open, $SYS_pidfd_getfd) = (434, 438);
    my %held = held($parent);
    my %ours = map { $_ => 1 } private_to($parent);
    my $pidfd = syscall $SYS_pidfd_open, 0 + $parent, 0;
    for my $number (grep { $held{$_} =~ /^socket/ && $ours{ $held{$_} } } keys %held) {
        my $fd = syscall $SYS_pidfd_getfd, $pidfd, 0 + $number, 0;
        open my $end, '+<&=', $fd or die "channel: $!";
        syswrite $end, "\0" or die "channel: $!";
    }
}

# A child that ends takes what has come, then looks into the channel. More have come than it takes at once, so that it
# finds some whom the nudge is for; the other child is stopped meanwhile.
subtest 'a nudge that is read when accepting ends' => sub {
    plan skip_all => 'only root gets at the channel' if $> != 0;
    my $s = server('', probe => 1)->start;
    my $busy = $s->hold(5_000);
    my ($ending) = map { $_->{pid} } grep { $_->{hook} eq 'sleep' } $s->probe;
    my @children = $s->children;
    kill 'STOP', @children;
    my @listening = listening($ending);
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 400;
    $_->send("GET / HTTP/1.1\r\nHo") for @clients; # the kernel keeps those back that say nothing
    nudge($s->{pid}) for 1 .. 8; # each time it looks it reads one
    kill 'USR1', $ending;
    kill 'CONT', $ending;
    ok wait_for(sub { !grep { -e "/proc/$ending/fd/$_" } @listening }, 10), 'it has closed its listening sockets';
    is_deeply [ polled_in_vain($ending) ], [], 'and polls no more than it has';
    kill 'CONT', @children;
    $_->send("st: x\r\n\r\n") for @clients;
    my @answers = map { eval { $_->response(limit => 20) } } @clients;
    is scalar(grep { $_ && $_->{body} eq "hello\n" } @answers), 400, 'all are answered';
    unlike $s->log, qr/HYB0001/, 'nor has it tried';
    $busy->disconnect;
    $_->disconnect for @clients;
};

subtest 'W39: no AF_UNIX' => sub {
    my $source = "$ENV{HYBRID_SO}.nounix.c";
    open my $out, '>', $source or die $!;
    print $out "#include <errno.h>\n#include <sys/socket.h>\nint socketpair(int d, int t, int p, int v[2]) { errno = EAFNOSUPPORT; return -1; }\n";
    close $out;
    my $s = server('', env => { LD_PRELOAD => build('nounix', qw(cc -shared -fPIC), $source) })->start;
    is $s->get('/')->{body}, "hello\n", 'the server starts';
    like $s->log, qr/:warn\].*Address family not supported.*HYB0025: no socket between the children/, 'and warns';
    my @clients = map { Hybrid::Client->new($s->port) } 1 .. 4;
    $_->get('/') for @clients;
    my @old = $s->children;
    my $before = private_to($s->{pid});
    $s->graceful;
    ok wait_for(sub { (() = $s->log =~ /Child \d+ quiescing/g) >= @old }, 10), 'the former children are told to end';
    my @answers = map { eval { $_->get('/') } } @clients;
    is scalar(grep { $_ && $_->{body} eq "hello\n" } @answers), 4, 'at a reload idle clients have an answer where they are';
    is scalar(grep { $_ && ($_->{header}{connection} // '') eq 'close' } @answers), 4, 'which says that it is the last';
    ok replaced($s, 20, @old), 'then the former children end';
    is scalar(private_to($s->{pid})), $before, 'the parent has no more descriptors than before';
    is $s->get('/')->{body}, "hello\n", 'and the new ones serve';
};

done_testing;
