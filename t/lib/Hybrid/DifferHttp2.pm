# SPDX-License-Identifier: Apache-2.0
package Hybrid::DifferHttp2;

# The same frames of HTTP/2 to mpm_hybrid and to mpm_event: what differs. A case is one of Hybrid::Http2Scripts, through
# TLS or not, and where it is cut, with which pauses; its number and the run's seed make it again.
#
#   my $differ = Hybrid::DifferHttp2->new(seed => 1);     # planted => 1: a hybrid that does differ, to see that it is seen
#   my $run = $differ->run(seconds => 10, most => 500);   # or cases => [17]
#   $run->{cases}, $run->{failures}, $run->{again}        # how many; texts; how many were tried again
#
# Compared are each stream's fields (but Date), data, and end, the server's SETTINGS and answers to PING, the errors of
# GOAWAY and RST_STREAM, and whether the connection is closed: before the client ends its side, and after that. In which
# order frames of several streams come, and in how many a body, is left to chance, and so is RST_STREAM for a body that
# is no longer wanted. What differs is tried again, and is a failure when event never says what hybrid has said.

use strict;
use warnings;
use List::Util qw(max);
use Hybrid::Chance;
use Hybrid::Corpus;
use Hybrid::Differ;
use Hybrid::Http2Scripts;
use Hybrid::Pair;
use Hybrid::Server;
use Hybrid::Talk;
use Hybrid::Wait;

my $LIMIT = 6; # so long an answer, or an end, may take
my $TRIES = 4;
my $TOGETHER = 40;
my @PAUSES = (0, 0, 0.001, 0.005, 0.045);

sub new {
    my ($class, %option) = @_;
    my $self = bless { %option, scripts => [ map { Hybrid::Http2Scripts::all($_) } 0, 1 ] }, $class;
    $self->{positions} = [ map { my $script = $_; map { [ $script, $_ ] } 1 .. length($script->{bytes}) - 1 } @{ $self->{scripts} } ];
    my $documents = $self->{documents} = Hybrid::Server->new; # of both, so that dates and tags are the same
    $documents->file('large', join '', map { "line $_\n" } 1 .. 6_000);
    $documents->file('last', "last\n");
    utime 1_000_000_000, 1_000_000_000, glob $documents->root . '/docs/*'; # a tag is weak when its file is young
    for my $mpm ('hybrid', 'event') {
        my $conf = "Protocols h2 h2c http/1.1\nDocumentRoot " . $documents->root . "/docs\n<Location /read>\nSetHandler reflector\nSetOutputFilter BUFFER\n</Location>\n";
        $conf .= "ServerTokens Prod\nKeepAliveTimeout 20\n" . ($self->{planted} && $mpm eq 'hybrid' ? "H2Direct off\n" : '');
        my $s = $self->{$mpm} = Hybrid::Server->new(mpm => $mpm, level => 'warn', modules => [qw(buffer http2 reflector ssl socache_shmcb)],
            conf => $conf . Hybrid::Server->tls_vhost($conf =~ s/^(?:ServerTokens|H2Direct).*\n//mgr));
        $s->make_certificate;
        $s->start;
    }
    return $self;
}

# Half of the cases are cut at one position, each once before any comes again; the others anywhere.
sub case {
    my ($self, $number) = @_;
    my $chance = Hybrid::Chance->new($self->{seed}, 'http2', $number);
    my ($script, @cuts) = @{ Hybrid::Differ::one_of($self, $self->{positions}, $number) };
    if ($number % 2) {
        my %cuts = map { 1 + $chance->below(length($script->{bytes}) - 1) => 1 } 1 .. $chance->pick(2, 5, 40, 100);
        @cuts = sort { $a <=> $b } keys %cuts;
    }
    my @pauses = @cuts > 10 ? $chance->pick(0, 0.001) : @PAUSES;
    my @pieces = map { [ $chance->pick(@pauses), $_ ] } Hybrid::Corpus::cut($script->{bytes}, @cuts);
    return { %$script, number => $number, pieces => \@pieces };
}

# What a server has said, in an order that does not depend on chance; and whether that is all that is to be expected.
sub outcome {
    my ($case, $talk) = @_;
    my $in = $talk->{in};
    my $said = $in =~ s{^(HTTP/1\.1 .*?\r\n\r\n)}{}s ? $1 =~ s/^(?:Date|Server): .*\r\n//mgr : ''; # refused before
    return (($said . $in) =~ tr/\r//dr . "\n" . ($talk->closed ? 'closed' : 'open'), $talk->closed) if $said ne '';
    my (%stream, %ended, @connection);
    while ($in =~ s/^(.)(..)(.)(.)(....)//s) {
        my ($type, $flags, $id) = (ord $3, ord $4, unpack 'N', $5);
        my $length = ord($1) << 16 | unpack 'n', $2;
        my $payload = substr $in, 0, $length, '';
        if ($type == 0)    { $stream{$id}{data} .= $payload }
        elsif ($type == 1) { $stream{$id}{fields} .= join '', map { "  $_\n" } field_list($payload) }
        elsif ($type == 3) { my $error = unpack 'N', $payload; $stream{$id}{error} = $error if $error && !$ended{$id}; $ended{$id} = 1 }
        elsif ($type == 7) { push @connection, 'GOAWAY error ' . unpack 'x4N', $payload if unpack 'x4N', $payload }
        elsif ($type == 6 || $type == 4 && !($flags & 1)) { push @connection, "type $type flags $flags " . unpack 'H*', $payload }
        $ended{$id} = 1 if $type < 2 && $flags & 1; # END_STREAM
    }
    for my $id (sort { $a <=> $b } keys %stream) {
        my %s = (data => '', fields => '', error => 'none', %{ $stream{$id} });
        $said .= "stream $id:\n$s{fields}  " . length($s{data}) . ' bytes: ' . substr($s{data}, 0, 20) . '..., error ' . "$s{error}\n";
        $said .= '  checksum ' . unpack('%32C*', $s{data}) . ($ended{$id} ? ", whole\n" : ", not whole\n");
    }
    my $complete = $case->{wants} eq 'closed' ? $talk->closed : keys %ended >= $case->{wants} && !grep { /^GOAWAY/ } @connection;
    return (join("\n", $said, (sort @connection), $talk->closed ? 'closed' : 'open'), $complete);
}

# Names are numbers of the static table, as a rule, and values what is on the wire, perhaps in Huffman's code: equal is equal.
sub field_list {
    my ($block) = @_;
    my $number = sub {
        my ($mask) = @_;
        my ($value, $shift) = (ord(substr $block, 0, 1, '') & $mask, 0);
        return $value if $value < $mask;
        while (length $block) {
            my $byte = ord substr $block, 0, 1, '';
            $value += ($byte & 127) << $shift;
            $shift += 7;
            last if $byte < 128;
        }
        return $value;
    };
    my $string = sub { my $length = $number->(127); return unpack 'H*', substr $block, 0, $length, '' };
    my @fields;
    while (length $block) {
        my $first = ord $block;
        if ($first & 128) { push @fields, $number->(127); next }
        if (($first & 224) == 32) { $number->(31); next } # size of the table
        my $name = $number->($first & 64 ? 63 : 15) || $string->();
        push @fields, "$name: " . $string->();
    }
    return grep { !/^33:/ } @fields;
}

sub start {
    my ($self, $case) = @_;
    my %pieces = (hybrid => $case->{pieces}, event => $case->{tls} ? $case->{pieces} : Hybrid::Http2Scripts::with_whole_preface(@{ $case->{pieces} }));
    return { case => $case, since => monotonic(), map {
        my $port = $self->{$_}->port($case->{tls} ? 2 : 1);
        ($_ => Hybrid::Talk->new($port, tls => $case->{tls}, alpn => 'h2', pieces => $pieces{$_}))
    } 'hybrid', 'event' };
}

# True when a pair has been brought to its end: then it has what each has said.
sub settled {
    my ($pair, $now) = @_;
    my @talks = @$pair{ 'hybrid', 'event' };
    if (!$pair->{ended}) {
        return 0 if grep({ !$_->sent } @talks) && $now - $pair->{since} < 30;
        my $quiet = $now - max(map { $_->last_at } @talks);
        return 0 if $quiet < 0.1;
        my @outcomes = map { [ outcome($pair->{case}, $_) ] } @talks;
        return 0 if $quiet < 1 && $outcomes[0][0] ne $outcomes[1][0] || $quiet < $LIMIT && grep { !$_->[1] } @outcomes;
        $pair->{said} = [ map { $_->[0] . ($_->[1] ? '' : ', and that is not all') } @outcomes ];
        $pair->{ended} = $now;
        $_->end('fin') for grep { !$_->closed } @talks;
    }
    return 0 if grep({ !$_->closed } @talks) && $now - $pair->{ended} < $LIMIT;
    $pair->{said}[$_] .= "\nafter the client's end:\n" . (outcome($pair->{case}, $talks[$_]))[0] for 0, 1;
    return 1;
}

sub talk_all {
    my ($self, $next, $then) = @_;
    my @pairs;
    while (1) {
        while (@pairs < $TOGETHER) { push @pairs, $self->start($next->() // last) }
        last if !@pairs;
        Hybrid::Talk::attend(0.02, map { @$_{ 'hybrid', 'event' } } @pairs);
        my $now = monotonic();
        $_->{done} = settled($_, $now) for @pairs;
        $then->($_) for grep { $_->{done} } @pairs;
        @pairs = grep { !$_->{done} } @pairs;
    }
}

sub run {
    my ($self, %option) = @_;
    my %run = (cases => 0, failures => [], again => 0);
    my %tries; # of what differs
    my $until = monotonic() + ($option{seconds} // 0);
    my @cases = $option{cases} ? @{ $option{cases} } : 0 .. ($option{most} // 1e6) - 1;
    my $next = sub { return @cases && ($option{cases} || monotonic() < $until) ? $self->case(shift @cases) : undef };
    my $doubtful = sub { my ($hybrid, $event) = @{ $_[0]{said} }; return $hybrid ne $event || $hybrid =~ /that is not all/ };
    $self->talk_all($next, sub {
        my ($pair) = @_;
        $run{cases}++;
        $option{watch}->($pair) if $option{watch};
        push @{ $tries{ $pair->{case}{number} } }, $pair if $doubtful->($pair);
    });
    my @numbers = sort { $a <=> $b } keys %tries;
    $run{again} = @numbers;
    for (2 .. $self->{tries} // $TRIES) {
        my @again = splice @{ [@numbers] }, 0, 10;
        $self->talk_all(sub { @again ? $self->case(shift @again) : undef }, sub { push @{ $tries{ $_[0]{case}{number} } }, $_[0] });
    }
    for (@numbers) {
        my @tries = @{ $tries{$_} };
        my %events = map { $_->{said}[1] => 1 } grep { $_->{said}[1] !~ /that is not all/ } @tries;
        push @{ $run{failures} }, $self->describe($tries[0]) if !$events{ $tries[0]{said}[0] };
    }
    push @{ $run{failures} }, $1 if $self->{hybrid}->log =~ /^(.*(?:exit signal|AH00052|assert).*)$/m;
    return \%run;
}

sub describe {
    my ($self, $pair) = @_;
    my $case = $pair->{case};
    my @pieces = map { sprintf '%s(%g ms)', Hybrid::Corpus::text($_->[1]), 1000 * $_->[0] } @{ $case->{pieces} };
    return join "\n", "case $case->{number}: $case->{name}, " . ($case->{tls} ? 'TLS' : 'plain'),
        "again: t/fuzz/diff --http2 --seed=$self->{seed} --case=$case->{number}", substr(join(' ', @pieces), 0, 1500),
        $pair->{said}[0], $pair->{said}[0] eq $pair->{said}[1] ? 'both say that' : Hybrid::Pair::first_difference(@{ $pair->{said} });
}

1;
