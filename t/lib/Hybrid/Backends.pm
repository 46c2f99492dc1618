# SPDX-License-Identifier: Apache-2.0
package Hybrid::Backends;

# What stands behind a server in tests: php-fpm, and peers for tunnels. Each is a process of its own, that ends when the
# object does.
#
#   my $fpm = Hybrid::Backends->php_fpm($root);     # listens at $root/run/fpm.sock; $root is a Hybrid::Server's
#   my $echo = Hybrid::Backends->echo;              # sends back what comes to $echo->port
#   my $web_socket = Hybrid::Backends->web_socket;  # answers a request with 101, then does that

use strict;
use warnings;
use Carp;
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Hybrid::Packages qw(program);
use Hybrid::Server;
use Hybrid::Wait;

sub php_fpm {
    my ($class, $root) = @_;
    open my $conf, '>', "$root/fpm.conf" or croak "fpm.conf: $!";
    print $conf "[global]\nerror_log = $root/logs/fpm\ndaemonize = no\n[www]\nlisten = $root/run/fpm.sock\npm = static\n",
        "pm.max_children = 4\n", $> == 0 ? "user = www-data\ngroup = www-data\nlisten.owner = www-data\n" : '';
    close $conf;
    my $self = $class->begin(sub {
        open STDERR, '>>', "$root/logs/fpm";
        exec program('php-fpm'), '-n', '-F', '-y', "$root/fpm.conf";
    });
    wait_for(sub { -S "$root/run/fpm.sock" }, 20) or croak 'no php-fpm';
    return $self;
}

sub echo { return $_[0]->peer('') }
sub web_socket { return $_[0]->peer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") }

sub peer {
    my ($class, $greeting) = @_;
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => Hybrid::Server::free_port(), Listen => 64)
        or croak "listen: $!";
    my $self = $class->begin(sub { answer($listen, $greeting) });
    $self->{port} = $listen->sockport;
    return $self;
}

sub port { $_[0]{port} }

sub begin {
    my ($class, $run) = @_;
    my $pid = fork // croak "fork: $!";
    return bless { pid => $pid, owner => $$ }, $class if $pid;
    eval { $run->() };
    POSIX::_exit(127);
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!);
    kill 'TERM', $self->{pid};
    waitpid $self->{pid}, 0;
}

# With a greeting: it is sent once the head of a request is there.
sub answer {
    my ($listen, $greeting) = @_;
    alarm 600;
    my $select = IO::Select->new($listen);
    my %head;
    while (1) {
        for my $socket ($select->can_read) {
            if ($socket == $listen) {
                my $client = $listen->accept or next;
                $client->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
                $select->add($client);
                $head{$client} = '' if $greeting;
            }
            elsif (!sysread $socket, my $bytes, 65_536) {
                $select->remove($socket);
                delete $head{$socket};
                close $socket;
            }
            elsif (!defined $head{$socket}) {
                print $socket $bytes;
            }
            elsif (($head{$socket} .= $bytes) =~ s/^.*?\r\n\r\n//s) {
                print $socket $greeting . delete $head{$socket};
            }
        }
    }
}

1;
