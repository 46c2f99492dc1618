# SPDX-License-Identifier: Apache-2.0
package Hybrid::Http2;

# A raw HTTP/2 connection: requests, and frame by frame what came of them. Hybrid::Http2::Browser below is a client that
# holds a server to its word, as real ones do.
#
#   my $h2 = Hybrid::Http2->new($port);            # TLS; ($port, tls => 0) is h2c; undef: no connection, or no HTTP/2
#   my $id = $h2->request('/path');                # ('/path', body => $bytes) is a POST; (hold => 1) leaves it open
#   my $id = $h2->upload('/path', $bytes, 10);     # a POST larger than the server's windows, for 10 s at most
#   $h2->listen(10, sub { $h2->done($id) });       # takes frames in for 10 s at most, or until that is true
#   $h2->answer($id);                              # { status, body } when whole, { lost => why } when it never will be
#   $h2->{goaway};                                 # the GOAWAYs so far, each { last, error, text }
#   $h2->{greeted}; $h2->{gone};                   # the server has said hello; the connection has ended

use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::SSL;
use List::Util qw(min);
use Hybrid::Wait;

my %DIGIT = map { my $d = $_; ($d < 3 ? sprintf '%05b', $d : sprintf '%06b', 0b011001 + $d - 3) => $d } 0 .. 9; # Huffman's
my %STATUS = (8 => 200, 9 => 204, 10 => 206, 11 => 304, 12 => 400, 13 => 404, 14 => 500);
my $WINDOW = 2**31 - 1;
my $FIRST_WINDOW = 65_535; # for a server's frames and for ours, until somebody says otherwise

sub new {
    my ($class, $port, %option) = @_;
    my @peer = (PeerAddr => $option{host} // '127.0.0.1', PeerPort => $port, Timeout => 10);
    my $tls = $option{tls} // 1;
    my $socket = $tls ? IO::Socket::SSL->new(@peer, SSL_verify_mode => 0, SSL_ca => [], SSL_hostname => 'localhost', SSL_alpn_protocols => ['h2'])
        : IO::Socket::INET->new(@peer);
    return if !$socket || ($tls && ($socket->alpn_selected // '') ne 'h2');
    my $self = bless { socket => $socket, tls => $tls, buffer => '', next => 1, stream => {}, goaway => [], waits => 0,
        room => $FIRST_WINDOW, stream_room => $FIRST_WINDOW }, $class;
    # No table for headers, and windows that never close unless a test wants that.
    my $settings = pack('nNnN', 1, 0, 4, $option{window} // $WINDOW);
    my $more = $option{window} ? '' : frame(8, 0, 0, pack 'N', $WINDOW - $FIRST_WINDOW);
    $self->write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, $settings) . $more);
    $socket->blocking(0);
    return $self;
}

sub frame {
    my ($type, $flags, $stream, $payload) = @_;
    return substr(pack('N', length $payload), 1) . pack('CCN', $type, $flags, $stream) . $payload;
}

sub socket { $_[0]{socket} }

sub write {
    my ($self, $bytes) = @_;
    local $SIG{PIPE} = 'IGNORE';
    $self->{socket}->blocking(1);
    while (length $bytes) {
        my $n = syswrite $self->{socket}, $bytes;
        last if !$n; # what the server has said before is still to be read
        substr $bytes, 0, $n, '';
    }
    $self->{socket}->blocking(0);
}

# Sends a request; its stream's number. Bodies are to fit into the server's first window.
sub request {
    my ($self, $path, %option) = @_;
    my ($bytes, $id) = $self->encode($path, %option);
    $self->write($bytes);
    return $id;
}

# The same, as bytes to be written.
sub encode {
    my ($self, $path, %option) = @_;
    my $id = $self->{next};
    $self->{next} += 2;
    $self->{waits}++;
    $self->{stream}{$id} = { body => '', room => 0 };
    my $body = $option{body};
    my $head = (defined $body || $option{hold} ? "\x83" : "\x82") . ($self->{tls} ? "\x87" : "\x86") . "\x04" . text($path) . "\x01" . text('localhost');
    my $length = $option{announce} // (defined $body ? length $body : undef);
    $head .= "\x0f\x0d" . text($length) if defined $length;
    my $bytes = frame(1, defined $body || $option{hold} ? 4 : 5, $id, $head);
    $body = '' if !defined $body;
    while (length $body) {
        my $piece = substr $body, 0, 16_000, '';
        $bytes .= frame(0, length $body || $option{hold} ? 0 : 1, $id, $piece);
    }
    return ($bytes, $id);
}

# Sends as much at a time as the server's windows have room for, and stops when it is answered: a server may leave the rest
# unread, and says RST_STREAM then. One at a time on a connection.
sub upload {
    my ($self, $path, $body, $limit) = @_;
    my $end = monotonic() + $limit;
    my $id = $self->request($path, hold => 1, announce => length $body);
    my $stream = $self->{stream}{$id};
    my $room = sub { min($self->{room}, $self->{stream_room} + $stream->{room}, 16_384, length $body) };
    while (!$self->done($id)) {
        my $size = $room->();
        if ($size <= 0) {
            die "no room in the window for $limit s\n" if monotonic() >= $end;
            $self->listen($end - monotonic(), sub { $self->done($id) || $room->() > 0 });
            next;
        }
        $_->{room} -= $size for $self, $stream;
        my $piece = substr $body, 0, $size, '';
        $self->data($id, $piece, last => $body eq '');
        last if $body eq '';
        $self->listen(0);
    }
    return $id;
}

sub text { my ($text) = @_; return chr(length $text) . $text } # shorter than 127

# More of the body of one that is held open; with `last` it is whole.
sub data { my ($self, $id, $bytes, %option) = @_; $self->write(frame(0, $option{last} ? 1 : 0, $id, $bytes)) }

sub done { my ($self, $id) = @_; my $s = $self->{stream}{$id}; return $s->{whole} || $s->{lost} || $self->{gone} }

# An answered stream's, or why there won't be an answer: 'refused' means that it can be asked again. undef: not yet.
sub answer {
    my ($self, $id) = @_;
    my $s = $self->{stream}{$id};
    return $s if $s->{whole} || $s->{lost};
    return { lost => 'the connection has ended' . join '', map { ", GOAWAY last $_->{last} error $_->{error} $_->{text}" } @{ $self->{goaway} } } if $self->{gone};
    return;
}

# How many streams wait for an answer.
sub waits { $_[0]{waits} }

sub finish {
    my ($self, $s, %how) = @_;
    return if $s->{whole} || $s->{lost};
    %$s = (%$s, %how);
    $self->{waits}--;
}

# Takes frames in for so long, or until `$done`, or until the connection ends.
sub listen {
    my ($self, $seconds, $done) = @_;
    my $end = monotonic() + $seconds;
    until ($self->{gone} || ($done && $done->())) {
        my $n = sysread $self->{socket}, $self->{buffer}, 65_536, length $self->{buffer};
        if ($n) { $self->take_frames; next }
        my $nothing = $self->{tls} ? $SSL_ERROR == SSL_WANT_READ : $!{EAGAIN};
        if (defined $n || !$nothing) { $self->{gone} = 1; return }
        my $left = $end - monotonic();
        return if $left <= 0;
        IO::Select->new($self->{socket})->can_read($left);
    }
}

sub take_frames {
    my ($self) = @_;
    while (length $self->{buffer} >= 9) {
        my ($high, $low, $type, $flags, $id) = unpack 'CnCCN', $self->{buffer};
        my $length = $high << 16 | $low;
        return if length $self->{buffer} < 9 + $length;
        my $payload = substr $self->{buffer}, 9, $length;
        substr $self->{buffer}, 0, 9 + $length, '';
        $self->take_frame($type, $flags, $id, $payload);
    }
}

sub take_frame {
    my ($self, $type, $flags, $id, $payload) = @_;
    my $s = $self->{stream}{$id};
    if ($type == 4) { $self->take_settings($flags, $payload) }
    elsif ($type == 8) { ($id ? $s // {} : $self)->{room} += unpack 'N', $payload }
    elsif ($type == 6 && !($flags & 1)) { $self->write(frame(6, 1, 0, $payload)) }
    elsif ($type == 7) { $self->take_goaway($payload) }
    elsif ($type == 3 && $s) {
        my $error = unpack 'N', $payload;
        $self->finish($s, lost => $error == 7 ? 'refused' : "RST_STREAM $error") if !$s->{whole};
    }
    elsif ($type == 1 && $s) { $s->{status} //= status($payload) }
    elsif ($type == 0 && $s) { $s->{body} .= $payload; $s->{size} += length $payload }
    $self->finish($s, whole => 1) if $s && $type < 2 && $flags & 1;
}

sub take_settings {
    my ($self, $flags, $payload) = @_;
    $self->{greeted} = 1;
    return if $flags & 1;
    my %settings = unpack '(nN)*', $payload;
    $self->{stream_room} = $settings{4} if defined $settings{4};
    $self->write(frame(4, 1, 0, ''));
}

# What it does not take can be asked elsewhere.
sub take_goaway {
    my ($self, $payload) = @_;
    my ($last, $error, $text) = unpack 'NNa*', $payload;
    push @{ $self->{goaway} }, { last => $last &= $WINDOW, error => $error, text => $text };
    $self->finish($self->{stream}{$_}, lost => 'refused') for grep { $_ > $last } keys %{ $self->{stream} };
}

# The :status of a head, which comes first. No table, so it is one of the static table's, or written out.
sub status {
    my ($head) = @_;
    $head =~ s/^[\x20-\x3f]+//; # sizes of the table
    my $first = ord $head;
    return $STATUS{ $first & 0x7f } if $first & 0x80;
    my $size = ord substr $head, 1;
    return substr $head, 2, $size if !($size & 0x80);
    my $bits = unpack 'B*', substr $head, 2, $size & 0x7f;
    my $status = '';
    while (length $status < 3) { $bits =~ s/^(000\d\d|011\d{3})// or return; $status .= $DIGIT{$1} // return }
    return $status;
}

package Hybrid::Http2::Browser;

# Asks for many things at once, and on a new connection for what GOAWAY or REFUSED_STREAM has left, once for each request:
# who is refused twice, or loses a stream that the server had taken, or is told of an error, has failed.
#
#   my $browser = Hybrid::Http2::Browser->new($port, tls => 1, at_once => 100);
#   my $statuses = $browser->fetch(20, ['/a'], ['/b', body => 'x']);   # in 20 s at most: { 200 => 2 } unless some failed
#   $browser->idle(0.02);                                              # looks what the server says meanwhile
#   $browser->{failures}, {connections}, {retried}, {announced} (GOAWAYs), {silent} (closes without one)

use strict;
use warnings;
use Hybrid::Wait;

sub new {
    my ($class, $port, %option) = @_;
    return bless { port => $port, at_once => 100, failures => [], connections => 0, retried => 0, announced => 0, silent => 0, %option }, $class;
}

# The connection for the next request: one that has said GOAWAY takes no more.
sub connection {
    my ($self) = @_;
    my $h2 = $self->{h2};
    $self->leave if $h2 && ($h2->{gone} || @{ $h2->{goaway} });
    return $self->{h2} if $self->{h2};
    $self->{connections}++;
    return $self->{h2} = Hybrid::Http2->new($self->{port}, tls => $self->{tls} // 1);
}

sub leave {
    my ($self) = @_;
    my $h2 = delete $self->{h2} or return;
    $self->{announced} += @{ $h2->{goaway} } ? 1 : 0;
    $self->{silent} += @{ $h2->{goaway} } ? 0 : 1;
    $self->fail("GOAWAY error $_->{error} $_->{text}") for grep { $_->{error} } @{ $h2->{goaway} };
}

sub fail { my ($self, $why) = @_; push @{ $self->{failures} }, $why }

sub idle {
    my ($self, $seconds) = @_;
    my $h2 = $self->{h2};
    if (!$h2) { select undef, undef, undef, $seconds; return }
    $h2->listen($seconds, sub { scalar @{ $h2->{goaway} } });
    $self->leave if $h2->{gone} || @{ $h2->{goaway} };
}

sub fetch {
    my ($self, $limit, @requests) = @_;
    my $end = monotonic() + $limit;
    my @todo = map { { what => $_ } } @requests;
    my (@asked, %statuses);
    while (@todo || @asked) {
        if (monotonic() > $end) { $self->fail('no answer in time') for @todo, @asked; last }
        @asked = $self->ask(\@todo, \@asked);
        my %waits = map { $_->{h2} => $_->{h2} } @asked;
        for my $h2 (values %waits) {
            my ($before, $told) = ($h2->waits, scalar @{ $h2->{goaway} });
            $h2->listen(%waits > 1 ? 0.01 : 0.1, sub { $h2->waits < $before || @{ $h2->{goaway} } > $told });
        }
        my @left;
        for my $request (@asked) {
            my $answer = $request->{h2}->answer($request->{id});
            if (!$answer) { push @left, $request }
            elsif ($answer->{whole}) { $statuses{ $answer->{status} // '?' }++ }
            elsif ($answer->{lost} eq 'refused' && !$request->{again}++) { $self->{retried}++; push @todo, $request }
            else { $self->fail("$request->{what}[0]: $answer->{lost}") }
        }
        @asked = @left;
    }
    return \%statuses;
}

# Sends as many of `$todo` as may be open at once: those asked now.
sub ask {
    my ($self, $todo, $asked) = @_;
    my @asked = @$asked;
    my $h2 = @$todo ? $self->connection : undef;
    if (@$todo && !$h2) { $self->fail('no connection') for splice @$todo }
    my $bytes = '';
    while (@$todo && $h2->waits < $self->{at_once}) {
        my $request = shift @$todo;
        my ($more, $id) = $h2->encode(@{ $request->{what} });
        $bytes .= $more;
        push @asked, { %$request, h2 => $h2, id => $id };
    }
    $h2->write($bytes) if length $bytes;
    return @asked;
}

1;
