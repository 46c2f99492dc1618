# SPDX-License-Identifier: Apache-2.0
# What the sanitizers find in the module fails a test: faults that are planted in it (t/planted/faults.c++) are seen, each
# by its sanitizer, and where there is none nothing is said.

use strict;
use warnings;
use Test::More;
use Hybrid::Load qw(run_command);
use Hybrid::Sanitizer;
use Hybrid::Server;

plan skip_all => 'is about mpm_hybrid alone' if Hybrid::Server::mpm() ne 'hybrid';

# A test of its own, in a process of its own: (passed, what it printed).
sub test_of_its_own {
    my ($sanitizer, $so, $code) = @_;
    local @ENV{qw(SANITIZER HYBRID_SO)} = ($sanitizer, $so);
    delete local @ENV{qw(HARNESS_ACTIVE HARNESS_VERSION)};
    my $said = run_command(120, $^X, '-MTest::More', '-MHybrid::Server', '-e', <<'BEGIN' . $code . <<'END');
my $s = Hybrid::Server->new(probe => 1, mpm_conf => "StartServers 1\nThreadsPerChild 4\nMaxRequestWorkers 4\n"
        . "MinSpareThreads 1\nMaxSpareThreads 4\n")->start;
is $s->get('/')->{body}, "hello\n", 'it answers';
BEGIN
done_testing;
END
    return ($? == 0, $said);
}

sub sees {
    my ($sanitizer, $so, $fault, $pattern, $code) = @_;
    my ($passed, $said) = test_of_its_own($sanitizer, $so, $code);
    ok !$passed, "$fault fails a test";
    like $said, qr/^ *not ok \d+ - nothing is wrong within/m, 'for that reason';
    like $said, $pattern, 'it is named, and where it is' or diag $said;
}

sub passes {
    my ($sanitizer, $so) = @_;
    my ($passed, $said) = test_of_its_own($sanitizer, $so, 'is $s->get("/planted?none")->{body}, "planted\n";');
    ok $passed, 'without a fault it passes' or diag $said;
}

subtest 'AddressSanitizer and UndefinedBehaviorSanitizer' => sub {
    my $so = Hybrid::Sanitizer::built('asan', 'planted');
    passes('asan', $so);
    sees('asan', $so, 'a freed object that is read', qr/AddressSanitizer: heap-use-after-free.*\bheap\b[^\n]*faults\.c\+\+/s,
        'eval { $s->get("/planted?heap") };');
    sees('asan', $so, 'an overflow', qr/faults\.c\+\+:\d+:\d+: runtime error: signed integer overflow/,
        'eval { $s->get("/planted?undefined") };');
    sees('asan', $so, 'a crash', qr/AddressSanitizer: SEGV/, 'eval { $s->get("/crash") };');
};

subtest 'ThreadSanitizer' => sub {
    my $so = Hybrid::Sanitizer::built('tsan', 'planted');
    passes('tsan', $so);
    sees('tsan', $so, 'a race of two workers', qr/ThreadSanitizer: data race.*\brace\b[^\n]*faults\.c\+\+/s, <<'CODE');
my @two = map { Hybrid::Client->new($s->port) } 1, 2;
$_->send("GET /planted?race HTTP/1.1\r\nHost: x\r\n\r\n") for @two;
is $_->response->{body}, "planted\n" for @two;
CODE
};

subtest 'without a sanitizer' => sub {
    my $so = $ENV{SANITIZER} ? "$ENV{HYBRID_TOP}/build/out/release/mod_mpm_hybrid.so" : $ENV{HYBRID_SO};
    sees('', $so, 'a crash', qr/exit signal Segmentation fault/, 'eval { $s->get("/crash") };');
};

done_testing;
