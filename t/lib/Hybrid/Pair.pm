# SPDX-License-Identifier: Apache-2.0
package Hybrid::Pair;

# The same requests to two servers side by side: the second, mpm_event, says what is right, and how long it takes on this
# machine at this moment.
#
#   my $pair = Hybrid::Pair->new($hybrid, $event);
#   $pair->same('what is tried', sub {
#       my ($server, $note) = @_;                   # in a process of its own for each server
#       $note->('this request', sub { ...; return $answer });  # timed; an answer is text
#       $note->('that one', sub { ...; return ($answer, $seconds) });  # it has timed itself
#   });
#   Hybrid::Pair::told($response)                   # a response as text, without what may differ; chunked_or_not => 1: it
#                                                   # depends on chance (on event, too) how much of a script's answer is
#                                                   # there when httpd sends the head
#
# A test passes when each answer is the same, and none takes longer than 1.2 x the other's + 50 ms. What is late is tried
# again, because a machine has other things to do: each request has to be in time once of so many tries. A request that
# is not answered is not tried again.

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use List::Util qw(sum0);
use POSIX ();
use Storable qw(nfreeze thaw);
use Test::Builder;
use Hybrid::Wait;

our $FACTOR = 1.2;
our $MARGIN = 0.05;
our $TRIES  = 6;
our $LIMIT  = 90; # seconds for all the requests of one try
our $ENOUGH = 8;  # failures, each of which may have waited long

sub new {
    my ($class, $ours, $events) = @_;
    return bless { servers => [ $ours, $events ], failed => 0 }, $class;
}

sub same {
    my ($self, $name, $play) = @_;
    my $test = Test::Builder->new;
    return $test->ok(0, "$name: not tried after so much that failed") if $self->{failed} >= $ENOUGH;
    my (%in_time, @seconds, @wrong, @late);
    for my $try (1 .. $TRIES) {
        my ($ours, $events) = $self->play($play);
        @seconds = map { sum0(map { $_->{seconds} // 0 } @$_) } $ours, $events;
        @wrong = differences($ours, $events) and last;
        @late = ();
        for my $n (0 .. $#$events) {
            $in_time{$n} ||= $ours->[$n]{seconds} <= $FACTOR * $events->[$n]{seconds} + $MARGIN;
            push @late, sprintf '%s took %.3f s, event %.3f', $ours->[$n]{what}, map { $_->[$n]{seconds} } $ours, $events
                if !$in_time{$n};
        }
        last if !@late;
    }
    splice @wrong, 5 if @wrong > 5;
    $test->note(sprintf '%s: %.2f s, event %.2f', $name, @seconds);
    my $ok = $test->ok(!@wrong && !@late, $name);
    return 1 if $ok;
    $self->{failed}++;
    $test->diag($_) for @wrong, @late;
    return 0;
}

# What is wrong with the answers of the first, as lines.
sub differences {
    my ($ours, $events) = @_;
    my @wrong;
    for my $n (0 .. ($#$ours > $#$events ? $#$ours : $#$events)) {
        my ($our, $event) = map { $_->[$n] || { what => 'a request', failed => 'not sent' } } $ours, $events;
        push @wrong, "$our->{what}: $our->{failed}" if $our->{failed};
        push @wrong, "event: $event->{what}: $event->{failed}" if $event->{failed};
        push @wrong, "$our->{what}: " . first_difference($our->{answer}, $event->{answer})
            if !$our->{failed} && !$event->{failed} && $our->{answer} ne $event->{answer};
    }
    push @wrong, 'nothing was tried' if !@$events;
    return @wrong;
}

sub first_difference {
    my ($our, $event) = map { [ split /\n/ ] } @_;
    my ($line) = grep { ($our->[$_] // '') ne ($event->[$_] // '') } 0 .. @$our + @$event;
    return "line $line of the answer is '" . ($our->[$line] // 'missing') . "', event's '" . ($event->[$line] // 'missing') . "'";
}

# For each server a list of { what, answer, seconds, failed }.
sub play {
    my ($self, $play) = @_;
    my @runs = map { $self->begin($_, $play) } @{ $self->{servers} };
    return map {
        my ($in, $pid) = @$_;
        local $/;
        my $frozen = <$in> // '';
        waitpid $pid, 0;
        length $frozen ? thaw($frozen) : [ { what => 'all of it', failed => "ended by status $?" } ];
    } @runs;
}

sub begin {
    my ($self, $server, $play) = @_;
    my $pid = open(my $in, '-|') // die "fork: $!";
    return [ $in, $pid ] if $pid;
    my @noted;
    local $SIG{ALRM} = sub { die "not done after $LIMIT s\n" };
    alarm $LIMIT;
    my $now = 'all of it';
    my $note = sub {
        my ($what, $request) = @_;
        $now = $what;
        my $begin = monotonic();
        my ($answer, $seconds) = $request->();
        push @noted, { what => $what, answer => $answer, seconds => $seconds // monotonic() - $begin };
    };
    eval { $play->($server, $note); 1 } or push @noted, { what => $now, failed => (split /\n/, $@)[0] };
    binmode STDOUT;
    print STDOUT nfreeze(\@noted);
    close STDOUT;
    POSIX::_exit(0);
}

sub told {
    my ($response, %option) = @_;
    my ($line, @fields) = split /\r\n/, $response->{head};
    my %may_differ = map { $_ => 1 } qw(date server etag), $option{chunked_or_not} ? qw(transfer-encoding content-length) : ();
    my $text = join "\n", $line, grep { !$may_differ{ lc((/^([^:]+)/)[0]) } } @fields;
    my $body = $response->{body};
    $text .= "\n\n" . (length $body > 500 ? length($body) . ' bytes, ' . md5_hex($body) : $body);
    return $text;
}

1;
