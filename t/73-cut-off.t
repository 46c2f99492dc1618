# SPDX-License-Identifier: Apache-2.0
# Clients that end in the middle of what they say, or of what they hear, by FIN, by closing, or by a reset: before,
# while, and after children hand their connections over. Afterwards nothing of them is left, and whoever is still there
# is idle.
# HYBRID_SEED is another seed than the usual.

use strict;
use warnings;
use Test::More;
use Hybrid::Chance;
use Hybrid::Client;
use Hybrid::Corpus;
use Hybrid::Count;
use Hybrid::Server;
use Hybrid::Talk;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'only hybrid and event are counted' if $mpm !~ /^(?:hybrid|event)$/;
my $seed = Hybrid::Chance->seed(73);
my @requests = Hybrid::Corpus::requests();
my $length = 7; # seconds of a round

sub server {
    my ($limits) = @_;
    my $s = Hybrid::Server->new(
        level => 'info', mpm_conf => Hybrid::Server::debian_mpm_conf() . ($limits // ''),
        modules => [qw(buffer headers reflector reqtimeout ssl socache_shmcb)],
        conf => Hybrid::Server->tls_vhost . <<'CONF',
Timeout 10
KeepAliveTimeout 60
RequestReadTimeout header=10 body=10
<Location /read>
    SetHandler reflector
    SetOutputFilter BUFFER
</Location>
CONF
    );
    $s->make_certificate;
    $s->file('large', 'x' x 3_000_000); # more than a socket takes
    return $s->start;
}

# One client for each request, at a random moment of the round: { request, begins, ends, how, talk options }.
sub clients {
    my ($s, $round) = @_;
    my $chance = Hybrid::Chance->new($seed, $round);
    return sort { $a->{begins} <=> $b->{begins} } map {
        my $bytes = $_->{bytes};
        my $said = $chance->one_in(3) ? length $bytes : $chance->below(1 + length $bytes);
        my %cuts = map { 1 + $chance->below($said) => 1 } $said > 1 ? 1 .. $chance->below(3) : ();
        my @pieces = Hybrid::Corpus::cut(substr($bytes, 0, $said), sort { $a <=> $b } grep { $_ < $said } keys %cuts);
        my $tls = $chance->one_in(4);
        {
            request => $_->{name}, begins => $chance->below(1_000 * $length) / 1_000,
            after => $chance->pick(0, 0, 0.005, 0.05, 0.5, 1.5),
            how => $chance->pick(qw(fin close rst rst)), port => $s->port($tls ? 2 : 1), said => $said,
            options => { tls => $tls, before => $chance->pick('', '', 'second', 'asleep'),
                pieces => [ map { [ $chance->pick(0, 0.002, 0.03), $_ ] } @pieces ] },
        };
    } @requests;
}

# Brings them to their ends; calls what `at` says (seconds => function) meanwhile. Those that a FIN did not end.
sub cut_off {
    my ($clients, %at) = @_;
    my $begin = monotonic();
    my @waiting = @$clients;
    my @moments = sort { $a <=> $b } keys %at;
    my (@talking, @stuck);
    while (@waiting || @talking) {
        my $now = monotonic() - $begin;
        $at{ shift @moments }->() while @moments && $moments[0] <= $now;
        while (@waiting && $waiting[0]{begins} <= $now && @talking < 200) {
            my $client = shift @waiting;
            $client->{talk} = Hybrid::Talk->new($client->{port}, %{ $client->{options} });
            push @talking, $client;
        }
        Hybrid::Talk::attend(0.005, map { $_->{talk} } @talking);
        $now = monotonic() - $begin;
        my @on;
        for my $client (@talking) {
            my $talk = $client->{talk};
            if    ($talk->closed) { $talk->end('close') }
            elsif ($client->{ended} && $now - $client->{ended} > 30) { push @stuck, $client; $talk->end('close') }
            else {
                $client->{sent} //= $now if $talk->sent;
                if (!$client->{ended} && $client->{sent} && $now >= $client->{sent} + $client->{after}) {
                    $talk->end($client->{how});
                    $client->{ended} = $now;
                }
                push @on, $client;
            }
        }
        @talking = @on;
    }
    return map { join ', ', "$_->{request}: $_->{said} bytes", $_->{options}{tls} ? 'TLS' : 'plain', $_->{options}{before} } @stuck;
}

# All of the server that is left: the clients that are there, idle.
sub at_rest {
    my ($s, @idle) = @_;
    my @left;
    my $looks = 0;
    my $rests = wait_for(sub {
        # Each look is connections, too, of which MaxConnectionsPerChild lets a child have only some (Hybrid::Server::settle).
        select undef, undef, undef, $looks > 10 ? 2.5 : 0.25 if ++$looks > 5;
        @left = Hybrid::Count::surplus($s);
        if (!@left && $mpm eq 'hybrid') {
            my $status = $s->status;
            my %expected = (BusyWorkers => 1, ConnsTotal => 1 + @idle, ConnsAsyncKeepAlive => scalar @idle,
                map { ("ConnsAsync$_" => 0) } qw(Writing Closing), defined $status->{ConnsAsyncWaitIO} ? 'WaitIO' : ()); # that since httpd 2.4.63
            my @wrong = grep { $status->{$_} != $expected{$_} } sort keys %expected;
            @left = map { "$_ is $status->{$_}, not $expected{$_}" } @wrong;
        }
        return !@left;
    }, 20);
    diag "seed $seed: $_" for $rests ? () : @left;
    return $rests;
}

# One round, with idle clients beside it that can move (what can't keeps its child until KeepAliveTimeout).
sub round {
    my ($s, $round, $idle, %at) = @_;
    my @idle = map { my $c = Hybrid::Client->new($s->port); $c->get('/'); $c } 1 .. $idle;
    my @clients = clients($s, $round);
    is_deeply [ cut_off(\@clients, %at) ], [], "round $round of seed $seed: who ends is heard";
    @idle = grep { !$_->is_closed(0.001) } @idle;
    ok at_rest($s, @idle), 'then all have gone but ' . @idle . ' idle clients';
    is scalar(grep { (eval { $_->get('/') } || { body => '' })->{body} eq "hello\n" } @idle), @idle, 'who are answered';
    $_->disconnect for @idle;
    ok at_rest($s), 'and nobody is left';
    is $s->get('/')->{body}, "hello\n", 'a new client is served';
    unlike $s->log, qr/exit signal|AH00052/, 'nothing has crashed';
    return scalar @idle;
}

subtest 'reloads' => sub {
    my $s = server();
    my $before = () = $s->log =~ /AH00489/g;
    my $idle = round($s, 1, 20, map { $_ => sub { $s->signal('USR1') } } 2, 2.1, 4.5);
    my $after = () = $s->log =~ /AH00489/g;
    cmp_ok $after - $before, '>=', 2, 'configured anew ' . ($after - $before) . ' times';
    is $idle, 20, 'those that were idle have moved' if $mpm eq 'hybrid';
};

subtest 'MaxConnectionsPerChild' => sub {
    my $s = server("MaxConnectionsPerChild 30\n");
    my %first = map { $_ => 1 } $s->children;
    my $idle = round($s, 2, 20);
    ok !(grep { $first{$_} } $s->children), 'the first children have gone';
    is $idle, 20, 'those that were idle have moved' if $mpm eq 'hybrid';
};

subtest 'reloads, connections that stay awake' => sub {
    my $s = server("DormantConnections off\n");
    round($s, 3, 0, map { $_ => sub { $s->signal('USR1') } } 1, 3, 3.05, 5);
} if $mpm eq 'hybrid';

done_testing;
