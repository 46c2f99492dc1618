# SPDX-License-Identifier: Apache-2.0
# Every call of the system that the module makes fails while the server works, with each error that its man page has for
# a system in trouble (not those that say we have passed nonsense, nor that an eventfd is full: then it has been written
# to). The service goes on, or the one client it was about is closed; when the fault is over all is as before:
# answers within two seconds, nothing spins, leaks or has crashed. What an administrator can do something about is said,
# in one line.

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Count;
use Hybrid::Faults;
use Hybrid::Server;
use Hybrid::Wait;
use POSIX ();
use Time::HiRes qw(usleep);

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm makes other calls" if $mpm ne 'hybrid';

my $PACE = 20_000; # microseconds between two rounds of traffic
our $MOST = 80; # clients at a time: fewer than may wait in the kernel for accept()
my %OP = (ADD => 1, DEL => 2, MOD => 3, # epoll_ctl
    LOWAT => Socket::SO_RCVLOWAT(), UNSENT => 25, # setsockopt: TCP_NOTSENT_LOWAT
    F_DUPFD_CLOEXEC => 1030);

my $two = <<'CONF';
StartServers 2
ServerLimit 12
ThreadsPerChild 6
MaxRequestWorkers 48
MinSpareThreads 1
MaxSpareThreads 100
CONF

sub server {
    my ($faults, %option) = @_;
    return Hybrid::Server->new(env => $faults->env, mpm_conf => $two . (delete $option{mpm_conf} // ''), %option,
        conf => "KeepAliveTimeout 30\nMaxKeepAliveRequests 0\nTimeout 30\n" . ($option{conf} // ''));
}

# Clients of all kinds at once: kept alive, with half a head, half an upload, a large file that is read late, those that
# linger, go away, or have been asleep. One round says what the round before has left open, and begins new ones. A
# client is owed as many answers as it has asked for.
package Traffic;

sub new {
    my ($class, $s) = @_;
    $s->file('big', 'b' x 400_000);
    my $self = bless { s => $s, clients => [], open => [], asleep => [] }, $class;
    return $self;
}

sub client {
    my ($self, %option) = @_;
    my $client = eval { Hybrid::Client->new($self->{s}->port, %option) } or return;
    $client->{owed} = 0;
    push @{ $self->{clients} }, $client;
    return $client;
}

sub ask {
    my ($client, $bytes) = @_;
    $client->{owed}++;
    $client->send($bytes);
}

our $GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

sub round {
    my ($self) = @_;
    my @before = splice @{ $self->{open} };
    $_->() for @before;
    return if @{ $self->{clients} } > $main::MOST;
    my $later = sub { push @{ $self->{open} }, $_[0] };
    if (my $kept = $self->client) {
        ask($kept, $GET);
        $later->(sub { ask($kept, $GET) });
    }
    if (my $half = $self->client) {
        ask($half, substr $GET, 0, 9);
        $later->(sub { $half->send(substr $GET, 9) });
    }
    if (my $upload = $self->client) {
        ask($upload, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" . 'u' x 3_000);
        $later->(sub { $upload->send('u' x 6_000) });
    }
    if (my $closing = $self->client) {
        ask($closing, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        $later->(sub { $closing->send('more') });
    }
    if (my $leaving = $self->client) {
        $leaving->send($GET);
        $later->(sub { $leaving->reset });
    }
    $self->late if !@before;
    shift @{ $self->{asleep} } while @{ $self->{asleep} } && defined $self->{asleep}[0]->fill(0); # closed meanwhile
    if (my $sleeper = shift @{ $self->{asleep} }) {
        push @{ $self->{clients} }, $sleeper;
        ask($sleeper, substr $GET, 0, 9);
        $later->(sub { $sleeper->send(substr $GET, 9) });
    }
}

# It reads at the end only.
sub late {
    my ($self) = @_;
    my $late = $self->client(rcvbuf => 20_000) or return;
    ask($late, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
}

# They will be asleep in a second.
sub lull {
    my ($self, $count) = @_;
    for (1 .. $count) {
        my $sleeper = eval { Hybrid::Client->new($self->{s}->port) } or next;
        eval { $sleeper->get('/'); 1 } or next;
        $sleeper->{owed} = 0;
        push @{ $self->{asleep} }, $sleeper;
    }
}

# Clients that have had an answer.
sub idle {
    my ($self, $count) = @_;
    return map { my $client = Hybrid::Client->new($self->{s}->port); $client->get('/'); $client } 1 .. $count;
}

# All say the rest, and have what they are owed, or are closed: how many are (answered, closed, neither).
sub end {
    my ($self) = @_;
    $_->() for splice @{ $self->{open} };
    my %count = (answered => 0, closed => 0, neither => 0);
    my $end = Hybrid::Wait::monotonic() + 10;
    for my $client (splice @{ $self->{clients} }) {
        next if !defined fileno $client->socket;
        while ($client->{owed}) {
            my $limit = $end - Hybrid::Wait::monotonic();
            if (eval { $client->response(limit => $limit > 0.1 ? $limit : 0.1); 1 }) { $client->{owed}-- }
            else { last }
        }
        $count{ !$client->{owed} ? 'answered' : $@ =~ /timeout/ ? 'neither' : 'closed' }++;
        $client->disconnect;
    }
    return \%count;
}

package main;

# Seconds of CPU time that all processes of the server have used.
sub cpu_time {
    my ($s) = @_;
    my $ticks = 0;
    for my $pid ($s->pid, $s->children) {
        my @field = split ' ', Hybrid::Server::slurp("/proc/$pid/stat") =~ s/.*\) //sr;
        $ticks += ($field[11] // 0) + ($field[12] // 0);
    }
    return $ticks / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# What it does when it should rest, '' if it does rest: it spins if it does not come to rest within five seconds. Clients
# that have just asked are work; a machine that has much else to do takes longer with them.
sub spins {
    my ($s, $calls) = @_;
    my $spin = '';
    wait_for(sub {
        my ($begin, $before, $called) = (monotonic(), cpu_time($s), $calls->());
        usleep(200_000); # the window
        my $used = (cpu_time($s) - $before) / (monotonic() - $begin);
        my $again = $calls->() - $called; # also where others leave it little time
        $spin = $used > 0.5 || $again > 100 ? sprintf '%.2f of a core, %d calls', $used, $again : '';
        return $spin eq '';
    }, 5);
    return $spin;
}

# Lines that an administrator is meant to read.
sub warnings_in { return scalar(() = $_[0] =~ /:(?:warn|error|crit|alert|emerg)\]/g) }

my %tried; # calls

my $CRASH = qr/AH0005[12]|exit signal|Assertion|assertion failed|AH00102|glibc|terminate called/;

# One line of the table, on a running server.
sub fault {
    my ($s, $faults, $traffic, $call, $errors, %case) = @_;
    $tried{$call} = 1;
  SKIP: {
        skip 'a sanitizer has an operator new of its own', 1 if $call eq 'new' && $ENV{SANITIZER};
        inject($s, $faults, $traffic, $call, $errors, %case);
    }
}

sub inject {
    my ($s, $faults, $traffic, $call, $errors, %case) = @_;
    my $started = monotonic();
    my %how = map { $_ => $case{$_} } grep { defined $case{$_} } qw(every nth seed op what frames);
    my $name = join ' ', $call, map { defined $case{$_} ? $case{$_} : () } qw(named what);
    my $least = $case{hits} // 3;
    my @children = $s->children;
    my (@few, @spun, @flood, @slow, @forgotten, @closed, @left, %clients);
    for my $error (@$errors) {
        my ($begin, $said) = (monotonic(), length $s->log);
        $traffic->round;
        my @old = $s->children;
        my @idle = $case{reload} ? $traffic->idle(6) : ();
        $faults->on($call, $error, %how);
        $case{during}->($s) if $case{during};
        $s->signal('USR1') if $case{reload};
        my $last = monotonic();
        my $hit = wait_for(sub {
            return 1 if $faults->hits($call) >= $least;
            $traffic->round;
            if ($case{again} && monotonic() - $last > 1) { # those who had it to do may have done it before
                $case{during}->($s);
                $last = monotonic();
            }
            usleep($PACE);
            0;
        }, 8);
        push @few, "$error: " . $faults->hits($call) . ' of ' . $faults->calls($call) if !$hit;
        my $spin = spins($s, sub { $faults->calls($call) });
        push @spun, "$error: $spin" if $spin;
        my $lines = warnings_in(substr $s->log, $said);
        push @flood, "$error: $lines" if $lines > 8 + 4 * (monotonic() - $begin);
        $faults->off;
        push @slow, $error if !wait_for(sub { eval { $s->get('/')->{body} eq "hello\n" } }, 2);
        if ($case{reload}) {
            my $answered = grep { eval { $_->get('/')->{body} eq "hello\n" } } @idle;
            push @closed, "$error: " . @idle - $answered . ' idle ones' if $case{harmless} && $answered < @idle;
            $_->disconnect for @idle;
        }
        my $ends = $traffic->end;
        if ($case{reload}) {
            my %old = map { $_ => 1 } @old;
            wait_for(sub { my @now = $s->children; @now >= 2 && !grep { $old{$_} } @now }, 20) or push @left, $error;
        }
        $clients{$_} += $ends->{$_} for keys %$ends;
        push @forgotten, "$error: $ends->{neither}" if $ends->{neither};
        push @closed, "$error: $ends->{closed}" if $ends->{closed} && $case{harmless} && !$case{reload};
    }
    is "@few", '', "$name: @$errors: each at least $least times";
    is "@spun", '', '... nothing spins';
    is "@flood", '', '... no flood in the log';
    is "@slow", '', '... afterwards the service answers within two seconds';
    is "@forgotten", '', "... no client waits for ever ($clients{answered} answered, $clients{closed} closed)";
    is "@closed", '', "... and all are answered (of $name)" if $case{harmless};
    if ($case{reload}) { is "@left", '', '... a new generation is there, the former has gone' }
    else               { is "@{[ grep { !$s->alive($_) } @children ]}", '', '... no child has ended' }
    is join("\n", grep { $_ =~ $CRASH } split /\n/, $s->log), '', '... nobody has crashed';
    ok $s->log =~ $case{says}, "... the log says what it is: $case{says}" if $case{says};
    is spins($s, sub { 0 }), '', '... nothing spins afterwards';
    $traffic->lull(3);
    note sprintf "%.1f s %s", monotonic() - $started, $name;
}

sub settles {
    my ($s, $traffic) = @_;
    $_->disconnect for splice @{ $traffic->{asleep} };
    my @surplus;
    my $settled = wait_for(sub { @surplus = Hybrid::Count::surplus($s); !@surplus }, 20);
    ok $settled, 'nothing is left' or diag explain \@surplus;
}

# The former generation serves on for as long as no new one can be made.
sub fork_fails {
    my $faults = Hybrid::Faults->new;
    my $s = server($faults, conf => "KeepAliveTimeout 300\n")->start;
    my @idle = Traffic->new($s)->idle(4);
    my @old = $s->children;
    my $begin = monotonic();
    $faults->on('fork', 'EAGAIN');
    $s->signal('USR1');
    $s->wait_log(qr/Resource temporarily unavailable.*AH00481: fork: Unable to fork new process/, 10);
    return sub { # a while later
        ok $faults->hits('fork'), 'no child can be forked';
        is scalar(grep { $s->alive($_) } @old), scalar(@old), 'the former ones are there';
        is scalar(grep { $_->get('/')->{body} eq "hello\n" } @idle), 4, 'and serve';
        is $s->get('/')->{body}, "hello\n", 'new clients, too';
        $faults->off;
        my %old = map { $_ => 1 } @old;
        ok wait_for(sub { my @now = $s->children; @now && !grep { $old{$_} } @now }, 30), 'when it can be done, it is';
        is scalar(grep { $_->get('/')->{body} eq "hello\n" } @idle), 4, 'idle clients are with the new ones';
        my $most = 2 + (monotonic() - $begin) / 10;
        cmp_ok scalar(() = $s->log =~ /AH00481/g), '<=', $most, 'it was tried every ten seconds';
        unlike $s->log, $CRASH, 'nobody has crashed';
    };
}
my $later = fork_fails();

subtest 'while it serves' => sub {
    my $faults = Hybrid::Faults->new;
    my $s = server($faults)->start;
    my $begin = monotonic();
    my $traffic = Traffic->new($s);
    $traffic->lull(12);
    usleep(1_200_000); # they go to sleep
    my $case = sub { fault($s, $faults, $traffic, @_) };
    my @half = (every => 2, seed => 4711); # not in step with code that calls twice

    # What concerns one client only, or says that there is none.
    $case->('accept4', [qw(EAGAIN EINTR ECONNABORTED EPROTO ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH)],
        @half, harmless => 1);
    $case->('accept4', [qw(EPERM)], every => 3, harmless => 1, named => 'every third');
    my $short = qr/HYB0001: can't accept more connections; pausing/;
    $case->('accept4', [qw(EMFILE ENFILE ENOBUFS ENOMEM EPERM ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EOPNOTSUPP)],
        says => $short);
    $case->('new', [qw(ENOMEM)]);
    my $most = 1 + (monotonic() - $begin) / 60;
    cmp_ok scalar(() = $s->log =~ /$short/g), '<=', $most, 'one line for all of these in a minute';

    $case->('epoll_wait', [qw(EINTR)], @half, harmless => 1);
    my $unpolled = qr/HYB0004: can't poll a connection, closing it: client 127\.0\.0\.1/;
    $case->('epoll_ctl', [qw(ENOSPC ENOMEM)], op => $OP{ADD}, named => 'ADD', what => 'client', says => $unpolled);
    $case->('epoll_ctl', [qw(ENOMEM)], op => $OP{MOD}, named => 'MOD', what => 'client', hits => 1);
    $case->('epoll_ctl', [qw(ENOSPC ENOMEM)], op => $OP{ADD}, named => 'ADD', what => 'listening', hits => 1);
    cmp_ok scalar(() = $s->log =~ /$unpolled/g), '<=', 2 * $s->children, 'one line of each child in a minute';

    $case->('recv', [qw(EINTR EAGAIN)], @half, harmless => 1);
    $case->('recv', [qw(ECONNRESET)], nth => 5, hits => 1, named => 'the fifth');
    $case->('recv', [qw(ECONNRESET ENOMEM ENOBUFS ETIMEDOUT)]);
    my @lingers = (what => 'client', frames => 2, named => 'of one that lingers'); # called by libapr
    $case->('read', [qw(ECONNRESET ETIMEDOUT ENOMEM)], @lingers);
    $case->('read', [qw(EINTR)], @lingers, @half, harmless => 1);
    $case->('setsockopt', [qw(ENOMEM ENOBUFS ENOPROTOOPT)], op => $OP{LOWAT}, named => 'SO_RCVLOWAT');
    $case->('setsockopt', [qw(ENOMEM ENOPROTOOPT)], op => $OP{UNSENT}, named => 'TCP_NOTSENT_LOWAT',
        harmless => 1, hits => 1, during => sub { $traffic->late });
    $case->('shutdown', [qw(ENOTCONN)], hits => 1, named => 'when SO_RCVLOWAT stays',
        during => sub { $faults->on('setsockopt', 'ENOMEM', op => $OP{LOWAT}, every => 2) });
    $case->('close', [qw(EINTR EIO)], harmless => 1);
    settles($s, $traffic);
};

subtest 'at a reload' => sub {
    my $faults = Hybrid::Faults->new;
    my $s = server($faults)->start;
    my $traffic = Traffic->new($s);
    my @usual = (hits => 1, reload => 1);
    my $case = sub { my ($call, $errors, @case) = @_; fault($s, $faults, $traffic, $call, $errors, @usual, @case) };

    $case->('sendmsg', [qw(EAGAIN ENOBUFS ENOMEM ETOOMANYREFS EPERM)], harmless => 1);
    $case->('sendmsg', [qw(EINTR)], every => 2, harmless => 1);
    $case->('recvmsg', [qw(ENOMEM ENOBUFS)], harmless => 1);
    $case->('recvmsg', [qw(EINTR EAGAIN)], every => 2, harmless => 1);
    $case->('fcntl', [qw(EMFILE)], op => $OP{F_DUPFD_CLOEXEC}, harmless => 1);
    $case->('getpeername', [qw(ENOTCONN ENOBUFS)]);
    $case->('getsockopt', [qw(ENOBUFS)]);
    $case->('new', [qw(ENOMEM)]);
    $case->('epoll_ctl', [qw(ENOSPC)], op => $OP{ADD}, what => 'client');
    $case->('read', [qw(EINTR EAGAIN)], what => 'signalfd', every => 2, harmless => 1);
    $case->('poll', [qw(EINTR ENOMEM)], every => 2, harmless => 1);
    $case->('ppoll', [qw(EINTR ENOMEM)], every => 2, harmless => 1);

    # The new children fail.
    my %fail = (harmless => 1, says => qr/HYB0018: the new children can't start, .* serve on/);
    $case->('epoll_create1', [qw(EMFILE ENOMEM)], %fail, says => qr/HYB0008: can't make the listener's descriptors/);
    $case->('eventfd', [qw(ENFILE)], %fail);
    $case->('signalfd', [qw(ENOMEM)], %fail, says => qr/HYB0006: can't make the descriptors a child needs/);
    $case->('timerfd_create', [qw(EMFILE)], %fail);
    $case->('epoll_ctl', [qw(ENOMEM)], op => $OP{ADD}, what => 'eventfd', %fail);
    $case->('epoll_ctl', [qw(ENOSPC)], op => $OP{ADD}, what => 'channel', %fail,
        says => qr/HYB0007: can't poll the listening sockets/);
    $case->('pthread_create', [qw(EAGAIN)], frames => 3, %fail,
        says => qr/AH03104: ap_thread_create: unable to create worker thread/);
    settles($s, $traffic);
};

# Handlers that block, so that the caretaker looks at its workers and makes more.
subtest 'with blocked workers' => sub {
    my $faults = Hybrid::Faults->new;
    my $s = server($faults, probe => 1, modules => ['reqtimeout'], conf => "RequestReadTimeout header=1\n")->start;
    my $traffic = Traffic->new($s);
    my $blocked = sub { # more than there are workers now, less than there may be
        for (1 .. 3) {
            my $client = $traffic->client or next;
            Traffic::ask($client, "GET /sleep?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
    };
    my @usual = (hits => 1, during => $blocked, again => 1, harmless => 1);
    my $case = sub { my ($call, $errors, @case) = @_; fault($s, $faults, $traffic, $call, $errors, @usual, @case) };
    $case->('pthread_create', [qw(EAGAIN)], frames => 3,
        says => qr/HYB0002: can't start another worker thread, going on with \d/);
    $case->('pthread_getcpuclockid', [qw(ENOENT)]);
    $case->('open', [qw(EMFILE ENFILE ENOMEM)]);
    $case->('pread', [qw(EINTR ESRCH EIO)], harmless => 0); # a file that can't be read is its connection's last
    $case->('timerfd_settime', [qw(EINVAL ECANCELED)], every => 2);
    $case->('read', [qw(EINTR)], what => 'timerfd', every => 2);
    $case->('poll', [qw(EINTR)], every => 2);
    $case->('poll', [qw(ENOMEM)]);
    $case->('ppoll', [qw(ENOMEM)]);
    $case->('ioctl', [qw(EINVAL)],
        during => sub { my $half = $traffic->client; Traffic::ask($half, "GET / HTTP/1.1\r\nHo") });
    $case->('send', [qw(EAGAIN ENOBUFS ENOMEM ECONNREFUSED)],
        during => sub { $faults->on('accept4', 'ENFILE', every => 2) });
    settles($s, $traffic);
};

# What is short elsewhere is not less so when our clients have gone: some make room once.
subtest 'idle clients stay' => sub {
    my $faults = Hybrid::Faults->new;
    my $s = server($faults)->start;
    my $traffic = Traffic->new($s);
    for my $case ([ 'accept4', 'ENFILE' ], [ 'recvmsg', 'ENOMEM' ]) {
        my ($call, $error) = @$case;
        my @idle = $traffic->idle(80);
        usleep(1_300_000); # they go to sleep
        my @old = $s->children;
        $faults->on($call, $error);
        $s->signal('USR1') if $call eq 'recvmsg';
        $traffic->round;
        my $hit = wait_for(sub { $faults->hits($call) >= 10 }, 10);
        $faults->off;
        ok $hit, "$call, $error: ten times";
        is $s->get('/')->{body}, "hello\n", '... then it serves';
        my $closed = grep { !eval { $_->get('/')->{body} eq "hello\n" } } @idle;
        cmp_ok $closed, '<=', 40, "... half of the idle clients are there, or more ($closed of 80 have gone)";
        is $traffic->end->{neither}, 0, '... who was waiting has an answer';
        $_->disconnect for @idle;
    }
};

$tried{fork} = 1;
subtest 'when a fork fails at a reload' => $later;

# From the start: it serves without what is not vital, or says what it lacks and ends.
for my $start (
    [ 'socketpair', [qw(EMFILE ENFILE EAFNOSUPPORT)], qr/HYB0025: no socket between the children/, 1 ],
    [ 'mmap', [qw(ENOMEM EAGAIN)], undef, 1 ],
    [ 'getrlimit', ['EPERM'], undef, 1 ],
    [ 'eventfd', ['EMFILE'], qr/HYB0009: can't make the descriptor that children call by/ ],
    [ 'epoll_create1', ['EMFILE'], qr/HYB0008.*AH02324/s ],
    [ 'signalfd', ['ENOMEM'], qr/HYB0006.*AH02324/s ],
    [ 'epoll_ctl', ['ENOSPC'], qr/HYB0007.*AH02324/s, 0, op => $OP{ADD}, what => 'listening' ],
    [ 'pthread_create', ['EAGAIN'], qr/AH03104.*AH02324/s, 0, frames => 3 ],
) {
    my ($call, $errors, $says, $serves, %how) = @$start;
    $tried{$call} = 1;
    for my $error (@$errors) {
        subtest "at the start: $call, $error" => sub {
            my $faults = Hybrid::Faults->new;
            my $s = server($faults);
            $faults->on($call, $error, %how);
            if ($serves) {
                $s->start;
                is $s->get('/')->{body}, "hello\n", 'it serves';
            }
            else {
                my $pid = $s->launch;
                ok wait_for(sub { !Hybrid::Server::_alive($pid) }, 15), 'the command ends';
                $s->wait_log($says, 15);
                ok wait_for(sub { my $daemon = $s->pid; !$daemon || !$s->alive($daemon) }, 15), 'no server is left';
            }
            cmp_ok $faults->hits($call), '>', 0, 'the call failed';
            like Hybrid::Server::slurp($s->root . '/logs/console') . $s->log, $says, 'that is said' if $says;
            unlike $s->log, $CRASH, 'nobody has crashed';
        };
    }
}

# An eventfd can be full only when it has been written to.
is "@{[ grep { !$tried{$_} } Hybrid::Faults->new->names ]}", 'write', 'all other calls were made to fail';

done_testing;
