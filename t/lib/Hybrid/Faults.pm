# SPDX-License-Identifier: Apache-2.0
package Hybrid::Faults;

# System calls of the module that fail when a test says so, while the server runs (t/faults/faults.c++).
#
#   my $faults = Hybrid::Faults->new;
#   my $s = Hybrid::Server->new(env => $faults->env)->start;
#   $faults->on('accept4', 'EMFILE');               # every one
#   $faults->on('recv', 'EINTR', every => 2);       # every second, beginning with the first
#   $faults->on('recv', 'EINTR', nth => 5);         # only the fifth from now on
#   $faults->on('recv', 'EINTR', every => 3, seed => 7); # one of three, at random
#       op => 1                                     # and only this operation, command or option
#       what => 'client'                            # and only a descriptor of that kind: see %KIND
#       frames => 3                                 # the caller is the module, or one of the 2 that have called that
#   $faults->hits('accept4');                       # failed since then; ->calls: made
#   $faults->off;

use strict;
use warnings;
use Carp;
use Errno ();
use File::Temp ();

my $SIZE = 72; # struct Record
my $FIRST = 24; # after the name
my $BETWEEN = $ENV{SANITIZER} ? 2 : 0; # frames of a sanitizer's, which calls for the module
my %KIND = (listening => 1, client => 2, channel => 3, eventfd => 4, timerfd => 5, signalfd => 6, other => 7);

sub new {
    my ($class) = @_;
    my $library = $ENV{HYBRID_FAULTS_SO} // '';
    -e $library or croak 'HYBRID_FAULTS_SO is not there: run the suite by build/run-suite';
    my $folder = File::Temp::tempdir(CLEANUP => 1);
    my $self = bless { path => "$folder/faults", library => $library, on => {} }, $class;
    open $self->{file}, '+>', $self->{path} or croak "$self->{path}: $!";
    truncate $self->{file}, 64 * $SIZE;
    binmode $self->{file};
    { # the library writes the names of what it knows
        local %ENV = (%ENV, %{ $self->env });
        system('/bin/true') == 0 or croak 'the library can\'t be loaded';
    }
    my $records = $self->read_at(0, 64 * $SIZE);
    for my $i (0 .. 63) {
        my $name = unpack 'Z24', substr $records, $i * $SIZE, 24;
        $self->{at}{$name} = $i * $SIZE if $name ne '';
    }
    %{ $self->{at} || {} } or croak 'the library does not see the file';
    return $self;
}

sub env { my ($self) = @_; return { LD_PRELOAD => $self->{library}, HYBRID_FAULTS => $self->{path} } }

# The names of all calls that can be made to fail.
sub names { my ($self) = @_; return sort keys %{ $self->{at} } }

sub on {
    my ($self, $call, $error, %how) = @_;
    my $at = $self->{at}{$call} // croak "no fault for $call";
    my $number = Errno->can($error) or croak "no error $error";
    my $kind = $how{what} ? $KIND{ $how{what} } // croak "no descriptor $how{what}" : 0;
    $self->write_at($at + $FIRST, pack 'L', 0);
    $self->write_at($at + $FIRST + 4, pack 'L7 Q2', $how{every} // 1, $how{nth} // 0, $how{seed} // 0, $how{op} // 0,
        $kind, ($how{frames} // 1) + $BETWEEN, 0, 0, 0);
    $self->write_at($at + $FIRST, pack 'L', $number->()); # now
    $self->{on}{$call} = 1;
}

# What has been counted stays.
sub off {
    my ($self, @calls) = @_;
    for my $call (@calls ? @calls : keys %{ $self->{on} }) {
        $self->write_at($self->{at}{$call} + $FIRST, pack 'L', 0);
        delete $self->{on}{$call};
    }
}

sub calls { my ($self, $call) = @_; return unpack 'Q', $self->read_at($self->{at}{$call} + $SIZE - 16, 8) }
sub hits  { my ($self, $call) = @_; return unpack 'Q', $self->read_at($self->{at}{$call} + $SIZE - 8, 8) }

sub read_at {
    my ($self, $at, $count) = @_;
    sysseek $self->{file}, $at, 0;
    my $bytes = '';
    my $n = sysread $self->{file}, $bytes, $count;
    return $n && $n == $count ? $bytes : croak "$self->{path}: $!";
}

sub write_at {
    my ($self, $at, $bytes) = @_;
    sysseek $self->{file}, $at, 0;
    syswrite($self->{file}, $bytes) == length $bytes or croak "$self->{path}: $!";
}

1;
