# SPDX-License-Identifier: Apache-2.0
package Hybrid::Differ;

# The same bytes to mpm_hybrid and to mpm_event: what differs. A case is a request of the corpus, or what chance makes
# of it, and how it is sent: in which pieces, with which pauses, plain or inside TLS, as the first request of its
# connection, the second, or after a sleep, to a hybrid with which directives. Its number and the run's seed make it
# again.
#
#   my $differ = Hybrid::Differ->new(seed => 1);
#   my $run = $differ->run(seconds => 30);       # and most => 1_000; or cases => [17]
#   $run->{cases}, $run->{failures}              # how many; texts
#   $run->{asleep}                               # so often a connection went to sleep
#
# planted => 1: a hybrid that does differ, to see that it is seen.
#
# Both get the bytes at the same time. When both have been quiet for a while they must have said the same, but Date
# and Server, and must both have closed or not, hybrid no later after the piece that event answers than event plus
# 100 ms. Then the clients end their side, and the rest must be the same. What differs is tried again with few others
# around: event may have other answers to the same bytes (whether an end comes with the last bytes or behind them), also
# when they come in one piece (how many of the blank lines behind a request are there when it is done); a late answer
# must be late each time, also beside a second event's, because the machine may be busy.

use strict;
use warnings;
use List::Util qw(max);
use Hybrid::Chance;
use Hybrid::Corpus;
use Hybrid::Server;
use Hybrid::Talk;
use Hybrid::Wait;

my $QUIET = 0.15;     # so long nothing comes: both have said what they have to say
my $HANG = 6;         # so long one may be behind the other
my $END = 12;         # so long an answer to the client's end may take
my $LATE = 0.1;
my $TRIES = 5;
my $LONG = 0.35; # so that an answer is late that does not come before
my @TALKS = qw(hybrid event control uncut); # of a case; the last two only when it is tried again
my @PAUSES = (0, 0, 0.001, 0.005, 0.02, 0.045);

# Refused; or not read by mod_reflector, because httpd closes what has both a length and chunks.
my $FOR_ITS_HEAD = qr{HTTP/1\.1 (?:[45]\d\d |200 OK\r\nContent-Length: 0\r\nConnection: close\r)};

# What hybrid does on purpose: [why, of which pairs that is true].
my @ACCEPTED = (
    [ 'AwaitRequest body: what is answered for its head alone waits for its body, or its client\'s end' => sub {
        my ($pair) = @_;
        my %before = %{ $pair->{before} };
        return 0 if $pair->{case}{kind} !~ /\bbody\b/ || $pair->{after}{hybrid} ne $pair->{after}{event};
        if ($before{hybrid} eq $before{event}) {
            return $before{event} =~ /$FOR_ITS_HEAD/ && at_its_end($pair->{hybrid});
        }
        return lacks_body($pair->{case}{bytes}) && $before{hybrid} =~ /^(.*)\n-- open$/s
            && $before{event} =~ m{^\Q$1\E$FOR_ITS_HEAD.*\n-- closed$}s;
    } ],
    # Reads end with 8000 bytes, and ap_rgetline_core() refuses a line with the first read that begins beyond its limit.
    # In pieces that event has read one by one that is sooner than in the same bytes at once, on event as well.
    [ 'a line longer than any limit, without an end: httpd wants one more read, and they depend on the pieces' => sub {
        my ($pair) = @_;
        return same($pair) && !$pair->{case}{tls} && $pair->{case}{bytes} =~ /[^\n]{8193}/
            && $pair->{before}{event} =~ m{^HTTP/1\.1 4(?:14|00) [^\n]*\n.*\n-- closed$}s;
    } ],
);

my $MPM_CONF = <<'CONF';
StartServers            2
MinSpareThreads         32
MaxSpareThreads         512
ThreadsPerChild         64
MaxRequestWorkers       512
AsyncRequestWorkerFactor 8
CONF

my $CONF = <<'CONF';
KeepAliveTimeout 12
MaxKeepAliveRequests 6
Timeout 30
RequestReadTimeout header=30 body=30
LimitRequestFields 30
TraceEnable extended
ServerTokens Prod
AddOutputFilterByType DEFLATE text/html
<Files ".ht*">
    Require all denied
</Files>
<Location /read>
    SetHandler reflector
    SetOutputFilter BUFFER
    Header unset Last-Modified
</Location>
<Location /small>
    SetHandler reflector
    SetOutputFilter BUFFER
    Header unset Last-Modified
    LimitRequestBody 1000
</Location>
CONF

my $PLANTED = 'planted'; # is not as event, and is seen

# name => [MPM, directives, whom it is compared with]
my %KINDS = (
    event => [ 'event', '' ],
    loose => [ 'event', "HttpProtocolOptions Unsafe\n" ],
    (map { my $await = $_; map { ("$await, dormant $_" => [ 'hybrid', "AwaitRequest $await\nDormantConnections $_\n",
        'event' ]) } qw(on off) } qw(body head off)),
    'loose body, dormant on' => [ 'hybrid', "HttpProtocolOptions Unsafe\n", 'loose' ],
    $PLANTED => [ 'hybrid', "HttpProtocolOptions Unsafe\n", 'event' ],
);

sub new {
    my ($class, %option) = @_;
    my $self = bless { %option, requests => [ Hybrid::Corpus::requests() ], servers => {} }, $class;
    for my $i (0 .. $#{ $self->{requests} }) {
        push @{ $self->{positions} }, map { [ $i, $_ ] } Hybrid::Corpus::positions($self->{requests}[$i]{bytes});
    }
    return $self;
}

# The kinds of hybrid that are compared.
sub hybrids {
    my ($self) = @_;
    my @hybrids = sort grep { $KINDS{$_}[2] && $_ ne $PLANTED } keys %KINDS;
    return $self->{planted} ? $PLANTED : @hybrids;
}

sub server {
    my ($self, $kind) = @_;
    return $self->{servers}{$kind} ||= do {
        my ($mpm, $conf) = @{ $KINDS{$kind} };
        my $documents = 'DocumentRoot ' . ($self->{root} ||= $self->documents) . "\n";
        my $s = Hybrid::Server->new(
            mpm => $mpm, mpm_conf => $MPM_CONF, level => $mpm eq 'hybrid' ? 'warn mpm_hybrid:trace6' : 'warn',
            modules => [qw(alias autoindex authz_host buffer deflate env filter headers negotiation reflector reqtimeout
                setenvif ssl socache_shmcb)],
            conf => "$CONF$conf$documents" . Hybrid::Server->tls_vhost($documents),
        );
        $s->make_certificate;
        $s->start;
    };
}

# One folder for all, so that dates and tags are the same.
sub documents {
    my ($self) = @_;
    my $s = $self->{documents} = Hybrid::Server->new;
    $s->file('large', join '', map { "line $_\n" } 1 .. 6_000);
    $s->file('folder/index.html', "folder\n");
    $s->file('last', "last\n");
    return $s->root . '/docs';
}

# The case of a number: { request, bytes, pieces, kind, tls, before, notifies }
sub case {
    my ($self, $number) = @_;
    my $chance = Hybrid::Chance->new($self->{seed}, $number);
    my @requests = @{ $self->{requests} };
    my %case = (
        number => $number, kind => $chance->pick($self->hybrids), tls => $chance->one_in(4),
        notifies => $chance->below(2), before => $chance->pick('', '', '', 'second', 'second', 'asleep', 'asleep'),
    );
    my @positions;
    if ($chance->one_in(2)) { # each position once, before any comes again
        my ($request, $position) = @{ $self->one_of($self->{positions}, $number) };
        @case{qw(request bytes)} = @{ $requests[$request] }{qw(name bytes)};
        @positions = ($position);
    }
    else {
        my $request = $self->one_of(\@requests, $number);
        @case{qw(request bytes)} = @$request{qw(name bytes)};
        if ($chance->one_in(2)) {
            $case{request} .= ', changed';
            $case{bytes} = Hybrid::Corpus::mutated($case{bytes}, $chance, @requests);
        }
        my $length = length $case{bytes};
        my $pieces = $chance->below(5);
        if    ($pieces == 0 && $length <= 300) { @positions = 1 .. $length - 1 }
        elsif ($pieces == 1 && $length <= 300) { @positions = grep { $chance->one_in(4) } 1 .. $length - 1 }
        elsif ($pieces >= 2 && $length > 1) {
            my %cuts = map { 1 + $chance->below($length - 1) => 1 } 1 .. $chance->pick(1, 2, 3, 6);
            @positions = sort { $a <=> $b } keys %cuts;
        }
    }
    my @pauses = @positions > 20 ? $chance->pick(0, 0.001, 0.004)
        : $chance->one_in(3)     ? $chance->pick(@PAUSES)
        :                          @PAUSES;
    @pauses = $LONG if @positions < 4 && $chance->one_in(3);
    $case{pieces} = [ map { [ $chance->pick(@pauses), $_ ] } Hybrid::Corpus::cut($case{bytes}, @positions) ];
    $case{pieces}[0][0] = 0;
    return \%case;
}

# All of them by turns, far apart.
sub one_of {
    my ($self, $list, $number) = @_;
    my $step = 1 + int(@$list * 0.618);
    $step++ while !prime_to($step, scalar @$list);
    return $list->[ ($number * $step + $self->{seed}) % @$list ];
}

sub prime_to { my ($a, $b) = @_; ($a, $b) = ($b, $a % $b) while $b; return $a == 1 }

# The talks of a case, under way.
sub start {
    my ($self, $case, $control) = @_;
    my $event = $KINDS{ $case->{kind} }[2];
    my %talks = map {
        my ($who, $kind, @pieces) = @$_;
        my $port = $self->server($kind)->port($case->{tls} ? 2 : 1);
        my %how = map { $_ => $case->{$_} } qw(pieces tls before notifies);
        ($who => Hybrid::Talk->new($port, %how, @pieces));
    } [ hybrid => $case->{kind} ], [ event => $event ],
        $control ? ([ control => $event ], [ uncut => $event, pieces => [ [ 0, $case->{bytes} ] ] ]) : ();
    return { case => $case, %talks, since => monotonic() };
}

# What a server has said and done, as text.
sub outcome {
    my ($talk) = @_;
    my $text = $talk->{in};
    $text =~ s/^(?:Date|Server): .*\r\n//mg;
    $text =~ s/^Allow: \K(.*)(?=\r$)/join ',', sort split \/,\/, $1/meg; # each child has an order of its own
    $text =~ s/\b$talk->{port}\b/PORT/g;
    $text .= $talk->closed ? "\n-- closed" : "\n-- open";
    return $talk->{state} =~ /^(?:connects|asks)$/ ? "$text before it was asked" : $text;
}

# True when the pair has been brought to its end: then it has { before, after } of both, and how late hybrid was.
sub settled {
    my ($pair, $now) = @_;
    my ($hybrid, $event) = @$pair{qw(hybrid event)};
    if (!$pair->{ended}) {
        return 0 if (!$hybrid->sent || !$event->sent) && $now - $pair->{since} < 60;
        my $quiet = $now - max($hybrid->last_at, $event->last_at);
        return 0 if $quiet < $QUIET;
        my %said = map { $_ => outcome($pair->{$_}) } grep { $pair->{$_} } @TALKS;
        return 0 if $said{hybrid} ne $said{event} && $quiet < $HANG;
        $pair->{before} = \%said;
        my $noise = $pair->{control} ? max(behind($pair->{control}, $event), behind($event, $pair->{control})) : 0;
        $pair->{late} = max(0, behind($hybrid, $event) - $noise - $LATE);
        $pair->{ended} = $now;
        $_->end('fin') for grep { $_ && !$_->closed } @$pair{@TALKS};
    }
    return 0 if !($hybrid->closed && $event->closed) && $now - $pair->{ended} < $END;
    $pair->{after} = { map { $_ => outcome($pair->{$_}) } grep { $pair->{$_} } @TALKS };
    return 1;
}

# By how much one was behind another at the worst moment, each after the piece that the other answered.
sub behind {
    my ($one, $other) = @_;
    my $worst = 0;
    my @times = @{ $one->{times} };
    my $compare = sub {
        my ($mine, $its) = @_;
        my $piece = -1 + grep { $_ <= $its } @{ $other->{piece_times} };
        my ($from, $its_from) = map { $piece < 0 ? 0 : $_->{piece_times}[$piece] } $one, $other;
        $worst = max($worst, ($mine - $from) - ($its - $its_from)) if defined $from;
    };
    for (@{ $other->{times} }) {
        my ($at, $length) = @$_;
        shift @times while @times && $times[0][1] < $length;
        $compare->($times[0][0], $at) if @times;
    }
    $compare->($one->{closed_at}, $other->{closed_at}) if $one->closed && $other->closed;
    return $worst;
}

# What it says comes with its last piece.
sub at_its_end {
    my ($talk) = @_;
    my $last = $talk->{piece_times}[-1];
    return !grep { $_ > $last + $LATE } map { $_->[0] } @{ $talk->{times} };
}

# One of the requests has announced more than there is.
sub lacks_body {
    my ($bytes) = @_;
    while ($bytes =~ s/\A(?:\r?\n)*((?:[^\n]*[^\r\n][^\n]*\n)+)\r?\n//) {
        my $head = $1;
        if ($head =~ /^Transfer-Encoding:.*?chunked[ \t]*\r?$/mi) {
            my $size = 1;
            while ($size > 0) {
                return 1 if $bytes eq '';
                return 0 if $bytes !~ s/\A([0-9a-f]+)[^\n]*\n//i;
                $size = length $1 > 8 ? 1e9 : hex $1;
                return 1 if $size > 0 && $size + 2 > length $bytes;
                substr $bytes, 0, $size + 2, '' if $size > 0;
            }
            return 1 if $bytes !~ s/\A(?:[^\r\n]+\r?\n)*\r?\n//; # trailers
        } elsif ($head =~ /^Content-Length:[ \t]*(\d+)[ \t]*\r?$/mi) {
            return 1 if $1 > length $bytes;
            substr $bytes, 0, $1, '';
        }
    }
    return 0;
}

sub same { my ($pair) = @_; return !grep { $pair->{$_}{hybrid} ne $pair->{$_}{event} } qw(before after) }

# Takes the pairs of these cases to their ends, $together at a time; calls back with each.
sub talk_all {
    my ($self, $next, $together, $control, $then) = @_;
    my @pairs;
    while (1) {
        while (@pairs < $together) {
            my $case = $next->() or last;
            push @pairs, $self->start($case, $control);
        }
        last if !@pairs;
        Hybrid::Talk::attend(0.02, grep { defined } map { @$_{@TALKS} } @pairs);
        my $now = monotonic();
        my @on;
        for (@pairs) {
            if (settled($_, $now)) { $then->($_) }
            else                   { push @on, $_ }
        }
        @pairs = @on;
    }
}

sub run {
    my ($self, %option) = @_;
    my $together = $option{together} // 120;
    my %run = (cases => 0, failures => [], again => 0, accepted => {});
    my %kinds = map { $_ => 1, $KINDS{$_}[2] => 1 } $self->hybrids;
    $self->server($_) for sort keys %kinds;
    my $until = monotonic() + ($option{seconds} // 0);
    my $number = $option{first} // 0;
    my @cases = @{ $option{cases} || [] };
    my $next = sub {
        return if @{ $run{failures} } >= 10;
        return if !$option{cases} && $number >= ($option{most} // 9e9);
        return monotonic() < $until ? $self->case($number++) : undef if !$option{cases};
        return @cases ? $self->case(shift @cases) : undef;
    };
    my @doubtful;
    $self->talk_all($next, $together, 0, sub {
        my ($pair) = @_;
        $run{cases}++;
        push @doubtful, $pair if !same($pair) || $pair->{late};
        $option{watch}->($pair) if $option{watch};
    });
    $self->judge(\%run, @doubtful);
    for ($self->hybrids) {
        push @{ $run{failures} }, "$_: $1" if $self->server($_)->log =~ /^(.*(?:exit signal|AH00052|assert).*)$/m;
    }
    $run{asleep} = () = map { $self->server($_)->log =~ /goes to sleep/g } $self->hybrids;
    return \%run;
}

# Each again, at most ten together.
sub judge {
    my ($self, $run, @doubtful) = @_;
    my %first = map { $_->{case}{number} => $_ } @doubtful;
    my %tries = map { $_->{case}{number} => [$_] } @doubtful;
    $run->{again} = @doubtful;
    for (2 .. $self->{tries} // $TRIES) {
        my @cases = map { $_->{case} } grep { !$self->explained(@{ $tries{ $_->{case}{number} } }) } values %first;
        $self->talk_all(sub { shift @cases }, 10, 1, sub {
            my ($pair) = @_;
            push @{ $tries{ $pair->{case}{number} } }, $pair;
        });
    }
    for my $number (sort { $a <=> $b } keys %tries) {
        my $why = $self->explained(@{ $tries{$number} });
        if ($why) { $run->{accepted}{$why}++ }
        else      { push @{ $run->{failures} }, $self->describe(@{ $tries{$number} }) }
    }
}

# Why what differed in the first of these tries is all right; nothing: it is not.
sub explained {
    my ($self, @tries) = @_;
    my $first = $tries[0];
    for (@ACCEPTED) {
        my ($why, $holds) = @$_;
        return $why if !grep { (!same($_) || $_->{late}) && !$holds->($_) } @tries;
    }
    my $said = sub { my ($pair, $who) = @_; return join "\0", map { $pair->{$_}{$who} } qw(before after) };
    my %events;
    for my $pair (@tries) { $events{ $said->($pair, $_) } = 1 for grep { $pair->{$_} } qw(event control uncut) }
    return if !$events{ $said->($first, 'hybrid') };
    return 'event says one or the other' if !same($first);
    return 'late once' if grep { !$_->{late} } @tries;
    return;
}

sub describe {
    my ($self, @tries) = @_;
    my $case = $tries[0]{case};
    my $through = !$case->{tls} ? 'plain' : $case->{notifies} ? 'TLS with close_notify' : 'TLS';
    my @lines = (
        "case $case->{number}: $case->{request}", "again: t/fuzz/diff --seed=$self->{seed} --case=$case->{number}",
        join(', ', "to hybrid with $case->{kind}", $through, $case->{before} || 'first'),
    );
    my @pieces = map { [ 1_000 * $_->[0], Hybrid::Corpus::text($_->[1]) ] } @{ $case->{pieces} };
    push @lines, join ' ', map { "$_->[1]($_->[0] ms)" } @pieces;
    my @late = map { int 1_000 * $_->{late} } @tries;
    push @lines, "late, beyond what may be, by @late ms" if grep { $_ } @late;
    for my $when (qw(before after)) {
        my %said = map { $_ => Hybrid::Corpus::text($tries[0]{$when}{$_}) } qw(event hybrid);
        my @said = map { "$_ says: $said{$_}" } sort keys %said;
        @said = "both say: $said{event}" if $said{event} eq $said{hybrid};
        push @lines, map { "$when the client's end $_" } @said;
    }
    return join "\n", map { length > 700 ? substr($_, 0, 500) . ' ... ' . substr($_, -150) : $_ } @lines;
}

1;
