# SPDX-License-Identifier: Apache-2.0
package Hybrid::Descriptors;

# What processes hold, read from /proc: whose descriptor is whose, and of what kind.
#
#   my @family = family($s->{pid});                # { pid, name, uid } of the server's parent's children
#   my %held = held($pid);                         # descriptor => what it is, as /proc says
#   my @kinds = kinds($pid);                       # the same without what differs from run to run, sorted
#   my @ours = private_to($s->{pid});              # what only the parent and its children may hold, see below
#   shared($pid, @ours);                           # those of them that $pid holds

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(family held kinds private_to shared);

sub family {
    my ($parent) = @_;
    my @family;
    for my $folder (glob '/proc/[0-9]*') {
        open my $in, '<', "$folder/stat" or next;
        my $stat = <$in> // next;
        my ($pid, $name, $state, $ppid) = $stat =~ /^(\d+) \((.*)\) (\S) (\d+)/ or next;
        push @family, { pid => $pid, name => $name, uid => (stat $folder)[4] // -1 } if $ppid == $parent && $state ne 'Z';
    }
    return sort { $a->{pid} <=> $b->{pid} } @family;
}

# A socket is known by its inode, an eventfd by its id in the kernel.
sub held {
    my ($pid) = @_;
    my %held;
    for my $path (glob "/proc/$pid/fd/*") {
        my ($fd) = $path =~ /(\d+)$/;
        my $what = readlink $path // next;
        if ($what eq 'anon_inode:[eventfd]' && open my $in, '<', "/proc/$pid/fdinfo/$fd") {
            local $/;
            my ($id) = (<$in> // '') =~ /^eventfd-id:\s*(\d+)/m;
            $what .= $id if defined $id;
        }
        $held{$fd} = $what;
    }
    return %held;
}

# { inode => what kind of socket }
sub sockets {
    my %sockets;
    for my $table (qw(unix tcp tcp6)) {
        open my $in, '<', "/proc/net/$table" or next;
        while (my $line = <$in>) {
            my @field = split ' ', $line;
            next if $field[0] =~ /^(?:Num|sl)$/;
            if ($table eq 'unix') { $sockets{ $field[6] } = $field[4] eq '0005' ? 'seqpacket' : 'unix' . ($field[7] ? ' named' : '') }
            else                  { $sockets{ $field[9] } = $field[3] eq '0A' ? 'listening' : 'tcp' }
        }
    }
    return %sockets;
}

sub kinds {
    my ($pid) = @_;
    my %held = held($pid);
    my %sockets = sockets();
    return sort map {
        my $what = $_;
        $what = 'socket ' . ($sockets{$1} // 'other') if $what =~ /^socket:\[(\d+)\]/;
        $what =~ s/^(pipe|anon_inode):\[?(\w*).*/$1 eq 'pipe' ? 'pipe' : "anon_inode $2"/e;
        $what =~ s{.*/([^/]+)$}{file $1} if $what =~ m{^/};
        $what =~ s/\d+/N/g;
        $what;
    } values %held;
}

# The parent's descriptors that are the MPM's own: the sockets between its children, the eventfds.
sub private_to {
    my ($parent) = @_;
    my %held = held($parent);
    my %sockets = sockets();
    return grep { /eventfd/ || (/^socket:\[(\d+)\]/ && ($sockets{$1} // '') eq 'seqpacket') } values %held;
}

sub shared {
    my ($pid, @ours) = @_;
    my %held = held($pid);
    my %holds = map { $_ => 1 } values %held;
    return grep { $holds{$_} } @ours;
}

1;
