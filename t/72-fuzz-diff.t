# SPDX-License-Identifier: Apache-2.0
# The same bytes to mpm_hybrid and to mpm_event, which answer alike: the requests of t/fuzz/requests and what chance
# makes of them, cut anywhere (`make fuzz-diff` does more of it); and frames of HTTP/2. HYBRID_SEED is another seed than the usual.

use strict;
use warnings;
use Test::More;
use Hybrid::Chance;
use Hybrid::Corpus;
use Hybrid::Differ;
use Hybrid::DifferHttp2;
use Hybrid::Server;

plan skip_all => 'hybrid is compared with event' if Hybrid::Server::mpm() ne 'hybrid';

subtest 'the corpus' => sub {
    my @requests = Hybrid::Corpus::requests();
    cmp_ok scalar(@requests), '>=', 300, scalar(@requests) . ' requests';
    my %names;
    is_deeply [ grep { $names{$_}++ } map { $_->{name} } @requests ], [], 'with a name each';
    my @lost = grep { Hybrid::Corpus::bytes(Hybrid::Corpus::text($_->{bytes}), {}) ne $_->{bytes} } @requests;
    is_deeply [ map { $_->{name} } @lost ], [], 'what is printed can be read';
};

subtest 'a difference is seen' => sub {
    my $differ = Hybrid::Differ->new(seed => 1, planted => 1, tries => 2);
    my $wanted = 'lineends: line feeds only';
    my @cases = grep { $_->{request} eq $wanted && !$_->{tls} } map { $differ->case($_) } 1 .. 6_000;
    my $run = $differ->run(cases => [ map { $_->{number} } @cases ]);
    ok @{ $run->{failures} } > 0, scalar(@cases) . ' cases';
    like $run->{failures}[0], qr{^case \d+: $wanted\nagain: t/fuzz/diff --seed=1 --case=\d+\n}, 'how to see it again';
    like $run->{failures}[0], qr/event says: .*400 Bad Request.*hybrid says: .*200 OK/s, 'and what it is';
};

subtest 'there is none' => sub {
    my $seed = Hybrid::Chance->seed(72);
    my $run = Hybrid::Differ->new(seed => $seed)->run(seconds => 20, most => 2_500);
    diag "seed $seed: $_\n" for @{ $run->{failures} };
    is scalar(@{ $run->{failures} }), 0, "seed $seed";
    cmp_ok $run->{cases}, '>', 150, "in $run->{cases} cases";
    cmp_ok $run->{asleep}, '>', 5, "of which $run->{asleep} connections slept";
    note "$run->{again} were tried again; $run->{accepted}{$_}: $_" for sort keys %{ $run->{accepted} };
};

subtest 'HTTP/2: a difference is seen' => sub {
    my $run = Hybrid::DifferHttp2->new(seed => 1, planted => 1, tries => 2)->run(cases => [ 1 .. 8 ]);
    ok @{ $run->{failures} } > 0, "$run->{cases} cases";
    like $run->{failures}[0], qr{^case \d+: [^,]+, plain\nagain: t/fuzz/diff --http2 --seed=1 --case=\d+\n}, 'how to see it again';
    like $run->{failures}[0], qr/'HTTP\/1.1 400 Bad Request', event's '/, 'and what it is';
};

subtest 'HTTP/2: there is none' => sub {
    my $seed = Hybrid::Chance->seed(72);
    my $run = Hybrid::DifferHttp2->new(seed => $seed)->run(seconds => 8, most => 600);
    diag "seed $seed: $_\n" for @{ $run->{failures} };
    is scalar(@{ $run->{failures} }), 0, "seed $seed";
    cmp_ok $run->{cases}, '>', 50, "in $run->{cases} cases, of which $run->{again} were tried again";
};

done_testing;
