# SPDX-License-Identifier: Apache-2.0
# A fuzzer on the live channel between the children of a server under AddressSanitizer: whatever is thrown into it, the
# server neither crashes nor keeps a descriptor, and real clients go on moving from child to child meanwhile.
#
#   PARCELS_SEED=n        the first seed, which is told when something fails (each round has the next)
#   PARCELS_SECONDS=10    for so long, but two rounds at least

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(run_command start_command);
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

plan skip_all => 'is about mpm_hybrid alone' if Hybrid::Server::mpm() ne 'hybrid';
plan skip_all => 'only root gets at the channel' if $> != 0;

@ENV{qw(SANITIZER HYBRID_SO)} = ('asan', Hybrid::Sanitizer::built('asan')) if !$ENV{SANITIZER};

my $seed = $ENV{PARCELS_SEED} // int rand 1_000_000;
my $end = monotonic() + ($ENV{PARCELS_SECONDS} // 10);

my $throw = "$ENV{HYBRID_SO}.throw";
my $said = run_command(120, qw(g++ -std=c++20 -x c++), "-I$ENV{HYBRID_TOP}/include", "$ENV{HYBRID_TOP}/t/fuzz/throw.c++",
    "$ENV{HYBRID_TOP}/src/channel.c++", '-o', $throw);
-e $throw or BAIL_OUT("can't build throw: $said");

my $s = Hybrid::Server->new(modules => ['reqtimeout'], conf => <<'CONF', mpm_conf => <<'MPM')->start;
KeepAliveTimeout 60
MaxKeepAliveRequests 0
Timeout 60
RequestReadTimeout header=60 body=60
CustomLog @ROOT@/logs/access "%P %{remote}p"
CONF
StartServers 2
ThreadsPerChild 8
MaxRequestWorkers 32
MinSpareThreads 8
MaxSpareThreads 32
MPM

my @kept = map { Hybrid::Client->new($s->port) } 1 .. 12;
# Each of them is answered, in whatever child it is by now.
sub all_go_on {
    my ($when) = @_;
    my @silent;
    for my $client (@kept) {
        my $body = (eval { $client->get('/', limit => 10) } || {})->{body} // '';
        push @silent, $@ || $body if $body ne "hello\n";
    }
    ok !@silent, "$when: each client is answered" or diag join "\n", @silent;
    return !@silent;
}

# How many of them have been answered by more than one process.
sub moved {
    my %pids;
    my $log = Hybrid::Server::slurp($s->root . '/logs/access');
    $pids{$2}{$1} = 1 while $log =~ /^(\d+) (\d+)$/mg;
    return scalar grep { keys %{ $pids{ $_->socket->sockport } || {} } > 1 } @kept;
}

sub answers { return ($s->get('/')->{body} // '') eq "hello\n" }

all_go_on('before');
my $rounds = 0;
while ($rounds < 2 || monotonic() < $end) {
    my @old = $s->children;
    my $thrown = start_command(60, $throw, $s->{pid}, 400, $seed);
    my $reloads = $rounds % 2 == 0; # else what is thrown stays where it is
    $s->graceful if $reloads;
    ok answers(), 'somebody new is answered meanwhile';
    if ($reloads) { # who asked before it moves would be told that this was the last answer
        ok wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @old }, 20), 'the former children end'
            or diag "seed $seed";
    }
    all_go_on("seed $seed") or last;
    like $thrown->(), qr/^thrown 400/, "seed $seed: four hundred are thrown" or last;
    all_go_on("seed $seed, afterwards") or last;
    my %now = map { $_ => 1 } $s->children;
    is scalar(grep { !$now{$_} } @old), 0, 'no child has gone' or diag "seed $seed" if !$reloads;
    $rounds++;
    $seed++;
}
is moved(), scalar @kept, 'all of them have moved';
$_->disconnect for @kept;
ok $s->settle, 'no descriptor has stayed' or diag 'seeds up to ' . ($seed - 1);
like $s->log, qr/HYB0027: what came from another process is no client's connection/, 'the log says that there was nonsense';
done_testing;
