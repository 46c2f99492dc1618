# SPDX-License-Identifier: Apache-2.0
package Hybrid::Chance;

# Chance that comes again: the same seeds, the same choices, on every machine and with every Perl.
#
#   my $chance = Hybrid::Chance->new($seed, $case);
#   $chance->below(10);             # 0 to 9
#   $chance->one_in(4);             # true, in one of four cases
#   $chance->pick(qw(a b c));       # one of them

use strict;
use warnings;
use Digest::MD5 qw(md5);

sub new {
    my ($class, @seeds) = @_;
    return bless { seeds => join(' ', @seeds), count => 0 }, $class;
}

sub below {
    my ($self, $count) = @_;
    return unpack('L<', md5($self->{seeds} . '/' . $self->{count}++)) % $count;
}

sub one_in { my ($self, $count) = @_; return !$self->below($count) }
sub pick { my ($self, @list) = @_; return $list[ $self->below(scalar @list) ] }

# The seed of a run: $HYBRID_SEED repeats one.
sub seed { return $ENV{HYBRID_SEED} // $_[1] // time }

1;
