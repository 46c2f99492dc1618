# SPDX-License-Identifier: Apache-2.0
package Hybrid::Client;

# A raw HTTP/1 client: what it sends and when is up to the test. Every wait has a limit and dies when it is reached.
#
#   my $c = Hybrid::Client->new($port);             # or ($port, tls => 1)
#   $c->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
#   my $r = $c->response;                           # { status, head, body, header => {lower-case name => value} }
#   $c->is_closed(5);                               # EOF or reset within 5 s
#   $c->get('/path');                               # a keep-alive request and its answer

use strict;
use warnings;
use Carp;
use IO::Select;
use IO::Socket::INET;
use Scalar::Util qw(weaken);
use Socket qw(SOL_SOCKET SO_LINGER SO_RCVBUF);
use Hybrid::Wait;

$SIG{PIPE} = 'IGNORE';

my %clients; # by address

sub new {
    my ($class, $port, %option) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10)
        or croak "connect to port $port: $!";
    $socket->setsockopt(SOL_SOCKET, SO_RCVBUF, pack 'i', $option{rcvbuf}) if $option{rcvbuf};
    if ($option{tls}) {
        require IO::Socket::SSL;
        # Without SSL_ca it would read all of the machine's certificates, for 20 ms of CPU time.
        IO::Socket::SSL->start_SSL($socket, SSL_verify_mode => 0, SSL_ca => [], SSL_hostname => $option{sni} // 'localhost',
            SSL_alpn_protocols => ['http/1.1']) or croak "TLS: $IO::Socket::SSL::SSL_ERROR";
    }
    $socket->autoflush(1);
    my $self = bless { socket => $socket, buffer => '', limit => $option{limit} // 30, port => $port }, $class;
    weaken($clients{0 + $self} = $self);
    return $self;
}

# This process's clients of these ports that have not been closed.
sub open_to {
    my %port = map { $_ => 1 } @_;
    return grep { $_ && $port{ $_->{port} } && defined fileno $_->{socket} } values %clients;
}

sub close_all { $_->disconnect for open_to(@_) }

sub DESTROY { delete $clients{ 0 + $_[0] } }

sub socket { $_[0]{socket} }

sub send {
    my ($self, $bytes) = @_;
    my $socket = $self->{socket};
    my $offset = 0;
    while ($offset < length $bytes) {
        my $n = syswrite $socket, $bytes, length($bytes) - $offset, $offset;
        return 0 if !defined $n;
        $offset += $n;
    }
    return 1;
}

# Reads what is there into the buffer, waiting $limit seconds at most: bytes read, 0 at the end of the stream (or a
# reset), undef when nothing came.
sub fill {
    my ($self, $limit, $size) = @_;
    my $socket = $self->{socket};
    my $pending = ref $socket eq 'IO::Socket::SSL' && $socket->pending;
    return if !$pending && !IO::Select->new($socket)->can_read($limit);
    my $tls = ref $socket eq 'IO::Socket::SSL';
    $socket->blocking(0) if $tls; # what is there may be a session ticket, or half a record
    my $n = sysread $socket, $self->{buffer}, $size || 65_536, length $self->{buffer};
    my $nothing = $tls && !defined $n && $IO::Socket::SSL::SSL_ERROR == IO::Socket::SSL::SSL_WANT_READ();
    $socket->blocking(1) if $tls;
    return $nothing ? undef : $n // 0;
}

# Everything until $pattern matches the buffer; what matched is taken out of the buffer and returned.
sub read_until {
    my ($self, $pattern, $limit) = @_;
    my $end = monotonic() + ($limit // $self->{limit});
    while (1) {
        return $1 if $self->{buffer} =~ s/^(.*?$pattern)//s;
        my $left = $end - monotonic();
        croak 'timeout waiting for ' . $pattern . ', have: ' . substr($self->{buffer}, 0, 200) if $left <= 0;
        my $n = $self->fill($left) // next;
        croak 'closed while waiting for ' . $pattern . ', have: ' . substr($self->{buffer}, 0, 200) if !$n;
    }
}

sub read_bytes {
    my ($self, $count, $limit) = @_;
    my $end = monotonic() + ($limit // $self->{limit});
    while (length $self->{buffer} < $count) {
        my $left = $end - monotonic();
        croak "timeout waiting for $count bytes" if $left <= 0;
        my $n = $self->fill($left) // next;
        croak "closed while waiting for $count bytes" if !$n;
    }
    return substr $self->{buffer}, 0, $count, '';
}

# One whole response. `head_only`: to a HEAD request.
sub response {
    my ($self, %option) = @_;
    my $head = $self->read_until(qr/\r\n\r\n/, $option{limit});
    my ($status) = $head =~ m{^HTTP/1\.\d (\d+)} or croak "not a response: $head";
    my %header;
    $header{ lc $1 } = $2 while $head =~ /^([^:\r\n]+):[ \t]*([^\r\n]*)\r$/mg;
    my $body = '';
    if ($option{head_only} || $status =~ /^1|^204|^304/) {
    }
    elsif (lc($header{'transfer-encoding'} // '') eq 'chunked') {
        while (1) {
            my ($size) = $self->read_until(qr/\r\n/, $option{limit}) =~ /^([0-9a-f]+)/i or croak 'bad chunk';
            $body .= $self->read_bytes(hex $size, $option{limit}) if hex $size;
            $self->read_until(qr/\r\n/, $option{limit});
            last if !hex $size;
        }
    }
    elsif (defined $header{'content-length'}) {
        $body = $self->read_bytes($header{'content-length'}, $option{limit});
    }
    else {
        1 while $self->fill($option{limit} // $self->{limit});
        $body = delete $self->{buffer};
        $self->{buffer} = '';
    }
    return { status => $status, head => $head, header => \%header, body => $body };
}

# A keep-alive GET and its answer.
sub get {
    my ($self, $path, %option) = @_;
    $self->send("GET $path HTTP/1.1\r\nHost: " . ($option{host} // 'localhost') . "\r\n" . ($option{header} // '') . "\r\n")
        or croak 'send failed';
    return $self->response(%option);
}

# The server has closed, or reset, within $limit seconds; what it still sent before is kept in the buffer.
sub is_closed {
    my ($self, $limit) = @_;
    my $end = monotonic() + $limit;
    while ((my $left = $end - monotonic()) > 0) {
        my $n = $self->fill($left);
        return 1 if defined $n && !$n;
    }
    return 0;
}

sub buffered { $_[0]{buffer} }
sub half_close { shutdown $_[0]{socket}, 1 }
sub disconnect { CORE::close $_[0]{socket} }

# Closes so that the server gets a reset.
sub reset {
    my ($self) = @_;
    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    CORE::close $self->{socket};
}

1;
