# SPDX-License-Identifier: Apache-2.0
package Hybrid::Talk;

# One connection among many in this process: it sends bytes in pieces, at their times, and notes what comes and when.
# Nothing blocks; pauses cost no CPU.
#
#   my $talk = Hybrid::Talk->new($port, tls => 0, before => 'asleep',
#       pieces => [[0, 'GET /'], [0.02, " HTTP/1.1\r\n\r\n"]]);
#   Hybrid::Talk::attend(0.1, $talk, ...);   # until one of them has something new, 0.1 s at most
#   $talk->sent;                             # all its pieces are under way, or there is nobody to send them to
#   $talk->end('fin');                       # or 'rst', or 'close'
#   $talk->closed;                           # by the server
#   $talk->{in}, $talk->{times}              # what has come; [seconds since its first piece, length] each time it did
#   $talk->{piece_times}                     # when each piece was sent
#
# alpn: 'http/1.1', or another protocol.
# before: nothing; 'second', one request and its answer; 'asleep', the same and two seconds more.

use strict;
use warnings;
use Errno qw(EAGAIN EINTR EINPROGRESS);
use IO::Poll qw(POLLIN POLLOUT);
use IO::Socket::INET;
use List::Util qw(max min);
use Socket qw(SOL_SOCKET SO_LINGER IPPROTO_TCP TCP_NODELAY SHUT_WR);
use Hybrid::Wait;

$SIG{PIPE} = 'IGNORE';

our $SLEEP = 2.2; # seconds after which an idle connection is dormant
my $FIRST = "GET /first HTTP/1.1\r\nHost: x\r\n\r\n";
my $NEVER = 9e9;
my %context; # by protocol

sub new {
    my ($class, $port, %option) = @_;
    my $self = bless { port => $port, before => '', alpn => 'http/1.1', %option, state => 'connects', due => 0 }, $class;
    $self->{$_} = '' for qw(in out);
    $self->{$_} = [] for qw(times piece_times);
    $self->{pieces} = [ @{ $option{pieces} || [] } ];
    $self->{socket} = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0);
    return $self->broken("connect: $!") if !$self->{socket};
    $self->{fd} = fileno $self->{socket};
    setsockopt $self->{socket}, IPPROTO_TCP, TCP_NODELAY, 1;
    $self->{want} = POLLOUT;
    return $self;
}

sub broken {
    my ($self, $why) = @_;
    $self->{error} = $why;
    $self->{closed_at} //= $self->time;
    $self->{out} = '';
    $self->{state} = 'closed';
    $self->{due} = $NEVER;
    return $self;
}

sub time { my ($self) = @_; return monotonic() - ($self->{began} // 0) }
sub closed { return defined $_[0]{closed_at} }
sub sent { my ($self) = @_; return $self->closed || $self->{state} eq 'sent' }

# When something has happened last, on monotonic()'s clock.
sub last_at {
    my ($self) = @_;
    my $heard = @{ $self->{times} } ? $self->{times}[-1][0] : 0;
    return ($self->{began} // 0) + max($self->{sent_at} // 0, $self->{closed_at} // 0, $heard);
}

# Waits until something can be done on one of the talks, or has to be, $most seconds at most; and does it.
sub attend {
    my ($most, @talks) = @_;
    my %by_fd = map { $_->{fd} => $_ } grep { defined $_->{fd} && !$_->closed } @talks;
    my $now = monotonic();
    my $wait = min($most, map { $_->{due} - $now } values %by_fd);
    my @mask = map { $_->{fd} => $_->{want} } values %by_fd;
    IO::Poll::_poll($wait > 0 ? 1 + int 1_000 * $wait : 0, @mask);
    $now = monotonic();
    while (my ($fd, $events) = splice @mask, 0, 2) {
        my $talk = $by_fd{$fd};
        $talk->go_on($now) if $events || $talk->{due} <= $now;
    }
}

sub go_on {
    my ($self, $now) = @_;
    $self->{due} = $NEVER;
    $self->{want} = POLLIN;
    if ($self->{state} eq 'connects') { $self->connect($now) or return }
    $self->receive if $self->{state} ne 'connects';
    return if $self->closed;
    if ($self->{state} eq 'asks' && $self->answered) {
        @$self{qw(state due in times)} = ('talks', $now + ($self->{before} eq 'asleep' ? $SLEEP : 0), '', []);
        return;
    }
    if ($self->{state} eq 'talks') {
        if (!defined $self->{began}) {
            $self->{began} = $now;
            $self->{next} = $now + ($self->{pieces}[0] ? $self->{pieces}[0][0] : 0);
        }
        while ($self->{out} eq '' && @{ $self->{pieces} } && $self->{next} <= $now) {
            $self->{out} = (shift @{ $self->{pieces} })->[1];
            $self->flush;
            push @{ $self->{piece_times} }, $self->time;
            $self->{next} = $now + ($self->{pieces}[0] ? $self->{pieces}[0][0] : 0);
        }
    }
    $self->flush if $self->{out} ne '';
    return if $self->{state} ne 'talks' || $self->{out} ne '';
    if (@{ $self->{pieces} }) { $self->{due} = $self->{next} }
    else { $self->{state} = 'sent'; $self->{sent_at} = $self->time }
}

# True: it is there, and so is TLS.
sub connect {
    my ($self, $now) = @_;
    my $socket = $self->{socket};
    if ($self->{tls}) {
        if (!$self->{is_tls}++) {
            require IO::Socket::SSL;
            my $context = $context{ $self->{alpn} } ||=
                IO::Socket::SSL::SSL_Context->new(SSL_verify_mode => 0, SSL_alpn_protocols => [ $self->{alpn} ]);
            if (!IO::Socket::SSL->start_SSL($socket, SSL_startHandshake => 0, SSL_reuse_ctx => $context)) {
                $self->broken('TLS');
                return 0;
            }
            $socket->blocking(0);
        }
        if (!$socket->connect_SSL) {
            no warnings 'once';
            $self->{want} = $IO::Socket::SSL::SSL_ERROR == IO::Socket::SSL::SSL_WANT_WRITE() ? POLLOUT : POLLIN;
            return 0 if $self->{want} == POLLOUT || $IO::Socket::SSL::SSL_ERROR == IO::Socket::SSL::SSL_WANT_READ();
            $self->broken("handshake: $IO::Socket::SSL::SSL_ERROR");
            return 0;
        }
    }
    $self->{state} = $self->{before} ? 'asks' : 'talks';
    $self->{out} = $FIRST if $self->{before};
    return 1;
}

sub answered {
    my ($self) = @_;
    my ($head) = $self->{in} =~ /^(.*?\r\n\r\n)/s or return 0;
    return length $self->{in} >= length($head) + ($head =~ /^Content-Length: (\d+)/mi ? $1 : 0);
}

sub receive {
    my ($self) = @_;
    while (1) {
        my $count = sysread $self->{socket}, $self->{in}, 65_536, length $self->{in};
        if (!defined $count) {
            return if $! == EAGAIN || $! == EINTR || $! == EINPROGRESS;
            $self->{error} = "$!";
        }
        if (!$count) {
            $self->{closed_at} //= $self->time;
            $self->{out} = '';
            return;
        }
        push @{ $self->{times} }, [ $self->time, length $self->{in} ];
    }
}

sub flush {
    my ($self) = @_;
    while ($self->{out} ne '') {
        my $count = syswrite $self->{socket}, $self->{out};
        if (defined $count) { substr $self->{out}, 0, $count, '' }
        elsif ($! == EAGAIN) { $self->{want} = POLLIN | POLLOUT; return }
        elsif ($! != EINTR) { $self->{out} = ''; return } # reading says why
    }
}

# Ends what is sent, and how: fin, and goes on reading; rst, or close, and is closed.
sub end {
    my ($self, $how) = @_;
    return if !$self->{socket};
    if ($how eq 'fin') {
        my $ssl = $self->{is_tls} && $self->{notifies} && $self->{socket}->_get_ssl_object;
        Net::SSLeay::shutdown($ssl) if $ssl;
        CORE::shutdown $self->{socket}, SHUT_WR;
        return;
    }
    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 if $how eq 'rst';
    if ($self->{is_tls}) { $self->{socket}->close(SSL_no_shutdown => 1, SSL_fast_shutdown => 1) }
    else                 { CORE::close $self->{socket} }
    $self->{closed_at} //= $self->time;
    delete $self->{fd};
}

sub DESTROY { my ($self) = @_; $self->end('close') if defined $self->{fd} }

1;
