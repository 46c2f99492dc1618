# SPDX-License-Identifier: Apache-2.0
package Hybrid::Corpus;

# The requests of t/fuzz/requests, whose README says how they are written, and what chance makes of them.
#
#   my @requests = Hybrid::Corpus::requests();            # { name, theme, bytes }
#   my $bytes = Hybrid::Corpus::mutated($bytes, $chance, @requests);
#   my @pieces = Hybrid::Corpus::cut($bytes, @positions); # in ascending order

use strict;
use warnings;
use Carp;
use File::Basename qw(basename dirname);
use Cwd qw(abs_path);

my $FOLDER = dirname(abs_path(__FILE__)) . '/../../fuzz/requests';
my %ESCAPE = (n => "\n", r => "\r", t => "\t", s => ' ', 0 => "\0");

sub requests {
    my (%words, @requests);
    my @files = sort { ($b =~ /words\.txt$/) <=> ($a =~ /words\.txt$/) || $a cmp $b } glob "$FOLDER/*.txt";
    croak "nothing in $FOLDER" if !@files;
    for my $file (@files) {
        my $theme = basename($file, '.txt');
        open my $in, '<', $file or die "$file: $!";
        while (my $line = <$in>) {
            chomp $line;
            if ($line =~ /^(\w+) := (.*)$/) { $words{$1} = bytes($2, \%words) }
            elsif ($line =~ /^(\S.*?)  (.*)$/) {
                push @requests, { name => "$theme: $1", theme => $theme, bytes => bytes($2, \%words) };
            }
            elsif ($line ne '') { croak "$file:$.: not a request: $line" }
        }
    }
    return @requests;
}

# What a line stands for.
sub bytes {
    my ($text, $words) = @_;
    $text =~ s{\\\{(.*?)\*(\d+)\}}{$1 x $2}ge;
    $text =~ s/\@(\w+)\@/exists $words->{$1} ? "\0$1\0" : "\@$1\@"/ge;
    $text =~ s/\\(?:x([0-9a-f]{2})|(.))|\|/defined $1 ? chr hex $1 : defined $2 ? $ESCAPE{$2} \/\/ $2 : "\r\n"/ge;
    $text =~ s/\0(\w+)\0/$words->{$1} \/\/ "\0$1\0"/ge;
    return $text;
}

# For people; bytes() reads it back.
sub text {
    my ($bytes) = @_;
    $bytes =~ s/\\/\\\\/g;
    $bytes =~ s/\|/\\|/g;
    $bytes =~ s/\r\n/|/g;
    $bytes =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
    $bytes =~ s/((.)\2{30,})/"\\{$2*" . length($1) . '}'/ge;
    $bytes =~ s/ $/\\s/;
    return $bytes;
}

sub cut {
    my ($bytes, @positions) = @_;
    my $from = 0;
    return map { my $piece = substr $bytes, $from, $_ - $from; $from = $_; $piece } @positions, length $bytes;
}

# Where to cut a request in two: everywhere; of a long one only near its ends, its line ends, and the sizes that count.
sub positions {
    my ($bytes) = @_;
    my $length = length $bytes;
    return map { $_ } 1 .. $length - 1 if $length <= 300;
    my %positions = map { $_ => 1 } 1 .. 60, $length - 40 .. $length - 1,
        map { $_ - 1 .. $_ + 1 } 4_096, 8_192, 16_384, 32_768;
    while ($bytes =~ /\r?\n/g && keys %positions < 400) {
        $positions{$_} = 1 for pos($bytes) - 2 .. pos($bytes) + 1;
    }
    return sort { $a <=> $b } grep { $_ > 0 && $_ < $length } keys %positions;
}

my @WORDS = (
    "\r\n", "\n", "\r", "\0", ' ', "\t", ':', ';', ',', "\xff", "\r\n\r\n", '0', '1', '99999999999', '-', '/', '*', '%', '#',
    '?', "\r\n ", 'HTTP/1.1', 'HTTP/1.0', 'GET ', 'POST ', 'TRACE ', 'Host: x', 'Content-Length: ', 'http://', '[', '@',
    "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n", "0\r\n\r\n",
);

# One to three changes, mostly small ones.
sub mutated {
    my ($bytes, $chance, @others) = @_;
    for (0 .. $chance->below(3)) {
        my $length = length $bytes;
        my $at = $chance->below($length + 1);
        my $count = $chance->below(1 + ($chance->one_in(3) ? $length - $at : $length - $at < 4 ? $length - $at : 4));
        my $what = $chance->below(10);
        if    ($what <= 1) { substr $bytes, $at, $count, '' }
        elsif ($what <= 3) { substr $bytes, $at, 0, $chance->pick(@WORDS) }
        elsif ($what == 4) { substr $bytes, $at, $count, $chance->pick(@WORDS) }
        elsif ($what == 5) { substr $bytes, $at, 0, substr $bytes, $at, $count } # twice
        elsif ($what == 6) { substr $bytes, $at, $count ? 1 : 0, chr $chance->below(256) }
        elsif ($what == 7) {
            my $other = $chance->pick(@others)->{bytes};
            $bytes = substr($bytes, 0, $at) . substr $other, $chance->below(1 + length $other);
        }
        elsif ($what == 8) { $bytes .= $chance->pick(@others)->{bytes} }
        else               { $bytes = swapped($bytes, $chance) }
        $bytes = "\0" if $bytes eq '';
    }
    return $bytes;
}

# Two lines change places, or one is another's copy.
sub swapped {
    my ($bytes, $chance) = @_;
    my @lines = split /(?<=\n)/, $bytes;
    my ($a, $b) = ($chance->below(scalar @lines), $chance->below(scalar @lines));
    @lines[ $a, $b ] = $chance->one_in(2) ? @lines[ $b, $a ] : @lines[ $a, $a ];
    return join '', @lines;
}

1;
