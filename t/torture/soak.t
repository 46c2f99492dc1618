# SPDX-License-Identifier: Apache-2.0
# A soak, for build/torture and not for the suite: clients of all kinds at once, for SOAK_SECONDS (60), while children are
# killed, and, in its first half, the server is reloaded. In the second half one generation stays, and what its processes
# have must not grow any more once they are warm. At the end everything is counted.
#
# A plain client's request may only be lost with a child that has been killed; a TLS client is told by the end of its
# connection that this one is over, and asks again, as browsers do.

use strict;
use warnings;
use Test::More import => [qw(is ok cmp_ok unlike note diag explain done_testing)];
use List::Util qw(max min);
use POSIX ();
use Time::HiRes qw(usleep);
use Hybrid::Client;
use Hybrid::Load qw(run_command);
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $seconds = $ENV{SOAK_SECONDS} // 60;
my $seed = $ENV{SOAK_SEED} // int rand 1_000_000;
note "SOAK_SEED=$seed";

my $s = Hybrid::Server->new(modules => [qw(reqtimeout ssl socache_shmcb http2 dav dav_fs)], level => 'info mpm_hybrid:info',
    conf => <<'CONF' . Hybrid::Server->tls_vhost("Protocols h2 http/1.1"), mpm_conf => <<'MPM');
KeepAliveTimeout 60
MaxKeepAliveRequests 0
Timeout 20
H2MinWorkers 2
H2MaxWorkers 8
DavLockDB @ROOT@/run/locks
<Location /put>
    Dav on
</Location>
CONF
StartServers 2
ThreadsPerChild 16
MaxRequestWorkers 96
MinSpareThreads 16
MaxSpareThreads 64
MPM
$s->make_certificate;
$s->file('large', 'x' x 2_000_000);
$s->file('put/old', '');
chmod 0777, "$s->{root}/docs/put";
$s->start;

# What clients say, each line by one write: "kind done", "kind FAILED from-to why".
my $said = "$s->{root}/said";
open my $say, '>>', $said or die $!;
$say->autoflush;

my $port = $s->port;
my $tls_port = $s->port(2);

# One that is opened anew whenever it has ended.
sub client {
    my ($self, %option) = @_;
    return $self->{client} if $self->{client};
    @$self{qw(since tls)} = (monotonic(), $option{tls});
    $self->{client} = eval { Hybrid::Client->new($option{tls} ? $tls_port : $port, limit => 30, %option) };
    printf $say "connecting FAILED %.2f-%.2f %s\n", $self->{since}, monotonic(), $@ =~ s/\s+/ /gr if !$self->{client};
    return $self->{client};
}

# What was to be sent has been: a whole answer, or why there is none.
sub finish {
    my ($self, $kind, $status) = @_;
    my $r = eval { $self->{client}->response };
    if ($r && $r->{status} =~ /^(?:$status)$/) {
        print $say "$kind done\n";
        delete $self->{client} if ($r->{header}{connection} // '') =~ /close/i;
        return;
    }
    my $why = $r ? "status $r->{status}" : $@ =~ s/\s+/ /gr;
    my $told = $self->{tls} && !$r && $why =~ /^closed/ && $self->{client}->buffered eq '';
    printf $say "%s FAILED %.2f-%.2f %s\n", $kind, $self->{since}, monotonic(), $why if !$told;
    delete $self->{client};
}

sub ask {
    my ($self, $kind, $bytes, $status, %option) = @_;
    my $client = client($self, %option) or return;
    $client->send($bytes);
    finish($self, $kind, $status // 200);
}

my $get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
my $put = sub { my ($size) = @_; "PUT /put/f$$ HTTP/1.1\r\nHost: localhost\r\nContent-Length: $size\r\n\r\n" };

# A round of each kind of client.
my (@kept, @idle, @tls, %one);
my %kinds = (
    kept   => sub { ask($kept[rand 30] ||= {}, 'kept', $get); usleep(rand 20_000) },
    idle   => sub { ask($idle[rand 400] ||= {}, 'idle', $get); usleep(30_000) },
    tls    => sub { ask($tls[rand 20] ||= {}, 'tls', $get, 200, tls => 1); usleep(rand 50_000) },
    shake  => sub { my %anew; ask(\%anew, 'shake', $get, 200, tls => 1) },
    slow   => sub {
        my $client = client(\%one) or return;
        for (split //, $get) { $client->send($_); usleep(rand 10_000) }
        finish(\%one, 'slow', 200);
    },
    map({ my $tls = $_; ("pieces$tls" => sub {
        my $client = client(\%one, $tls ? (tls => 1) : ()) or return;
        my $size = 1 + int rand 200_000;
        $client->send($put->($size));
        for (my $left = $size; $left > 0;) {
            my $piece = min($left, 1 + int rand 30_000);
            $client->send('x' x $piece);
            usleep(rand 20_000);
            $left -= $piece;
        }
        finish(\%one, "pieces$tls", '201|204');
    }) } '', ' tls'),
    slack  => sub { # reads slowly
        my $client = client(\%one, rcvbuf => 32_768) or return;
        $client->send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
        for (1 .. 20) { $client->fill(1, 16_384); usleep(rand 50_000) }
        finish(\%one, 'slack', 200);
    },
    abort  => sub {
        my $tls = rand 4 < 1;
        my $client = eval { Hybrid::Client->new($tls ? $tls_port : $port, $tls ? (tls => 1) : ()) } or return;
        my $bytes = (($get) x 2, $put->(50_000) . 'x' x 30_000, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")[rand 4];
        $bytes = substr $bytes, 0, rand length $bytes if rand 2 < 1;
        $client->send($bytes);
        usleep(rand 20_000) if rand 2 < 1;
        $client->fill(0, 4096);
        rand 2 < 1 ? $client->reset : $client->disconnect;
        print $say "abort done\n";
    },
    h2 => sub { # it takes no notice of a GOAWAY, hence how many it gets is no matter
        run_command(20, 'h2load', qw(-n 300 -c 6 -m 8 -T 5 -N 5), "https://127.0.0.1:$tls_port/");
        print $say "h2 done\n";
    },
);

my $begin = monotonic();
my $end = $begin + $seconds;
my @pids;
for my $kind (sort keys %kinds) {
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        srand $seed + @pids;
        $kinds{$kind}->() while monotonic() < $end;
        POSIX::_exit(0);
    }
    push @pids, $pid;
}
srand $seed - 1;

# { pid => { memory, descriptors, threads } } of the parent and the children
sub look {
    my %look;
    for my $pid ($s->{pid}, $s->children) {
        my ($memory) = Hybrid::Server::slurp("/proc/$pid/smaps_rollup") =~ /^Pss:\s+(\d+)/m or next;
        $look{$pid} = { memory => $memory, descriptors => scalar(() = glob "/proc/$pid/fd/*"),
            threads => scalar(() = glob "/proc/$pid/task/*") };
    }
    return \%look;
}

# As long as it takes, in steps.
sub pass { my ($time) = @_; my $until = min($end, monotonic() + $time); usleep(50_000) while monotonic() < $until }

my (@kills, $reloads);
sub kill_one {
    my @children = $s->children or return;
    push @kills, monotonic();
    kill 'KILL', $children[rand @children];
}

my ($first, $last);
while (monotonic() < $begin + $seconds / 2) {
    pass(1 + rand 3);
    $s->graceful;
    $reloads++;
    kill_one() if $reloads % 5 == 0;
    $first = look() if $reloads == 3;
}
$last = look();
cmp_ok $reloads, '>=', $seconds / 20, "$reloads reloads";

# Growth, in kB. A sanitizer's memory is its own.
my $judges = !Hybrid::Sanitizer::sanitizer();
my $own = Hybrid::Sanitizer::sanitizer() eq 'tsan' ? 2 : 0; # threads
sub grows_little {
    my ($who, $was, $is, $share) = @_;
    diag sprintf '%s: %d to %d kB, %d to %d descriptors, %d to %d threads', $who, map { ($was->{$_}, $is->{$_}) }
        qw(memory descriptors threads);
    cmp_ok $is->{memory}, '<', $was->{memory} * $share + 2_000, "$who: memory" if $judges;
    return;
}
my $parent = $s->{pid};
grows_little('the parent over the reloads', $first->{$parent}, $last->{$parent}, 1.2);
cmp_ok $last->{$parent}{descriptors}, '<=', $first->{$parent}{descriptors}, 'the parent: descriptors';
is $last->{$parent}{threads}, $first->{$parent}{threads}, 'the parent: threads';

kill_one();
pass($seconds / 6); # that makes them warm
my @warm = (look());
while (monotonic() < $end - $seconds / 6) { pass(2); push @warm, look() }
my @later;
while (monotonic() < $end - 1) { pass(2); push @later, look() }
my @stayed = grep { my $pid = $_; !grep { !$_->{$pid} } @warm, @later } keys %{ $warm[0] };
cmp_ok scalar(@stayed), '>=', 2, 'some stay';
for my $pid (sort { $a <=> $b } @stayed) {
    my ($was, $is) = map { my $looks = $_; +{ map { my $what = $_; ($what => max(map { $_->{$pid}{$what} } @$looks)) }
        qw(memory descriptors threads) } } \@warm, \@later;
    grows_little($pid == $parent ? 'the parent' : "child $pid", $was, $is, 1.15);
    my $threads = ($pid == $parent ? 1 : 16 + 8 + 4) + $own; # workers, mod_http2's, a few for the child
    cmp_ok $is->{threads}, '<=', $threads, 'no more threads than there may be';
}
waitpid $_, 0 for @pids;

my (%done, @lost);
for (split /\n/, Hybrid::Server::slurp($said)) {
    if (/^(.*) done$/) { $done{$1}++ }
    elsif (/FAILED ([\d.]+)-([\d.]+)/) {
        my ($from, $to) = ($1, $2);
        push @lost, $_ if !grep { $_ >= $from - 0.1 && $_ <= $to } @kills;
    }
}
note explain \%done;
is scalar(grep { !$done{$_} } keys %kinds), 0, 'clients of all kinds have been served' or diag explain \%done;
is scalar(@lost), 0, 'nobody has lost a request but by a child that was killed' or diag join "\n", @lost[0 .. min($#lost, 20)];
ok $s->settle(60), 'all that it holds is accounted for';
unlike $s->log, qr/:(?:crit|alert|emerg)\]/, 'the log is quiet';
done_testing;
