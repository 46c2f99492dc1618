# SPDX-License-Identifier: Apache-2.0
package Hybrid::Wire;

# Loopback as a wire is: packets of 1500 bytes, one at a time, at a limited rate. A request does not arrive at once then,
# and a server sees it in parts.
#
#   my $why_not = Hybrid::Wire::enter;             # first of all: goes on in a network namespace; or says why it can't
#   my $ports = Hybrid::Wire::ports($n, $which);   # for Hybrid::Server's `ports`; side $n, 1 or 2, has a rate of its own,
#                                                  # for all of its servers: $which is 0, 1, ...
#   my $relay = Hybrid::Wire->relay(@ports);       # the same without a namespace: a process that passes bytes on,
#   Hybrid::Client->new($relay->port($ports[0]));  # a segment at a time, until the object is gone
#
# HYBRID_WIRE=why in the environment: no namespace is tried, for that reason.
#
# In the namespace everything that the test starts goes by this wire: tc's HTB limits what comes from and goes to the
# ports of each of two sides. Who is not root makes a user namespace for it.

use strict;
use warnings;
use Carp;
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Hybrid::Load qw(run_command);
use Hybrid::Server;
use Hybrid::Wait;

our $RATE    = 20_000_000; # bits a second
our $SEGMENT = 1448;       # what of 1500 bytes is TCP's payload

my $FIRST_PORT = 0x5000;

# Shell commands that make lo of the namespace the wire. Without gso_max_segs the kernel would pass up to 64 kB as one
# packet. Side $n has the ports from $FIRST_PORT + 256 * $n.
sub setup {
    my $limit = join ' && ', map {
        my ($n, $match) = ($_, sprintf '0x%x 0xff00', $FIRST_PORT + 256 * $_);
        ("tc class add dev lo parent 1: classid 1:$n htb rate ${RATE}bit burst 3000 cburst 3000 quantum 1514",
            map { "tc filter add dev lo parent 1: protocol ip prio 1 u32 match ip $_ $match flowid 1:$n" } qw(sport dport));
    } 1, 2;
    return "ip link set lo mtu 1500 gso_max_segs 1 up && tc qdisc add dev lo root handle 1: htb && $limit";
}

# The command that runs another one in such a namespace, as the same user.
sub command {
    my (@command) = @_;
    my ($user, $group) = ($>, $) + 0);
    return ('unshare', '-n', 'sh', '-c', setup() . ' && exec "$@"', 'sh', @command) if $user == 0;
    return ('unshare', '-U', '-r', '-n', 'sh', '-c', setup() . ' && exec "$@"', 'sh',
        'unshare', '-U', "--map-user=$user", "--map-group=$group", @command);
}

# Starts the test again in a namespace; there, it returns ''. Where that is not possible it returns what was said.
sub enter {
    return $ENV{HYBRID_WIRE} if defined $ENV{HYBRID_WIRE};
    local $ENV{PATH} = "$ENV{PATH}:/usr/sbin:/sbin";
    my $said = run_command(20, command('echo', 'a wire'));
    if ($said =~ /^a wire$/m) {
        $ENV{HYBRID_WIRE} = '';
        exec command($^X, (map { "-I$_" } grep { !ref } @INC), $0, @ARGV) or croak "unshare: $!";
    }
    $said =~ s/\s+/ /g;
    return $ENV{HYBRID_WIRE} = $said || 'no namespace';
}

sub in_namespace { return defined $ENV{HYBRID_WIRE} && $ENV{HYBRID_WIRE} eq '' }

# A namespace of one's own has only one's own ports.
sub ports {
    my ($n, $which) = @_;
    return [ map { $FIRST_PORT + 256 * $n + 3 * ($which // 0) + $_ } 1 .. 3 ] if in_namespace();
    return [ map { Hybrid::Server::free_port() } 1 .. 3 ];
}

sub relay {
    my ($class, @ports) = @_;
    my %listen = map {
        $_ => IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => Hybrid::Server::free_port(), Listen => 64,
            Blocking => 0, ReuseAddr => 1) || croak "listen: $!";
    } @ports;
    pipe my $alive, my $lives or croak "pipe: $!"; # that closes when this process, or the object, is gone
    my $pid = fork // croak "fork: $!";
    if ($pid == 0) {
        close $lives;
        eval { pass_on($alive, \%listen); 1 } or print STDERR "relay: $@";
        POSIX::_exit(0);
    }
    my $self = bless { lives => $lives, pid => $pid, owner => $$ }, $class;
    $self->{port}{$_} = $listen{$_}->sockport for @ports;
    close $_ for values %listen;
    return $self;
}

sub port { my ($self, $port) = @_; return $self->{port}{$port} // croak "no relay for port $port" }

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!);
    close $self->{lives};
    kill 'KILL', $self->{pid}; # what a sleeping reader keeps it from seeing
    waitpid $self->{pid}, 0;
}

# The relay process. A way is one direction of a connection: at most one segment is on it, and arrives when it is due.
sub pass_on {
    my ($alive, $listen) = @_;
    local $SIG{PIPE} = 'IGNORE';
    my %target = map { fileno($listen->{$_}) => $_ } keys %$listen;
    my @ways;
    while (1) {
        my $now = monotonic();
        my @empty = grep { !length $_->{bytes} && !$_->{ended} } @ways;
        my $read = IO::Select->new($alive, values %$listen, map { $_->{from} } @empty);
        my @loaded = grep { length $_->{bytes} } @ways;
        my $write = IO::Select->new(map { $_->{to} } grep { $_->{due} <= $now } @loaded);
        my ($next) = sort { $a <=> $b } map { $_->{due} - $now } grep { $_->{due} > $now } @loaded;
        my ($readable, $writable) = IO::Select->select($read, $write, undef, $next // 10);
        my %ready = map { $_ => 1 } @{ $readable || [] };
        my %room = map { $_ => 1 } @{ $writable || [] };
        return if $ready{$alive};
        for my $way (@ways) {
            deliver($way) if length $way->{bytes} && $room{ $way->{to} };
            take($way) if $ready{ $way->{from} } && !length $way->{bytes} && !$way->{ended};
        }
        @ways = grep { !$_->{both}{gone} && $_->{both}{ended} < 2 } @ways;
        push @ways, map { connection($_, $target{ fileno $_ }) } grep { $ready{$_} } values %$listen;
    }
}

sub connection {
    my ($listen, $port) = @_;
    my $client = $listen->accept or return;
    my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 5) or return;
    for ($client, $server) {
        $_->blocking(0);
        $_->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
    }
    my $both = { gone => 0, ended => 0 };
    return map { { from => $_->[0], to => $_->[1], both => $both, bytes => '', due => 0, ended => 0 } }
        [ $client, $server ], [ $server, $client ];
}

sub take {
    my ($way) = @_;
    my $n = sysread $way->{from}, $way->{bytes}, $SEGMENT;
    if (!defined $n) {
        $way->{both}{gone} = !$!{EAGAIN};
    }
    elsif ($n == 0) {
        $way->{ended} = 1;
        $way->{both}{ended}++;
        shutdown $way->{to}, 1;
    }
    else {
        $way->{due} = monotonic() + $n * 8 / $RATE;
    }
}

sub deliver {
    my ($way) = @_;
    my $n = syswrite $way->{to}, $way->{bytes};
    if (defined $n) { substr $way->{bytes}, 0, $n, '' }
    else { $way->{both}{gone} = !$!{EAGAIN} }
}

1;
