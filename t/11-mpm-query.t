# SPDX-License-Identifier: Apache-2.0
# What the MPM answers to ap_mpm_query() (parity Q01-Q04), as a module sees it at three moments.

use strict;
use warnings;
use Test::More;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker has answers of its own' if $mpm eq 'worker';

my $s = Hybrid::Server->new(probe => 1, mpm_conf => <<'CONF')->start;
StartServers 2
ServerLimit 5
ThreadLimit 10
ThreadsPerChild 4
MaxRequestWorkers 16
MinSpareThreads 3
MaxSpareThreads 90
MaxConnectionsPerChild 1000
CONF
$s->wait_log(qr/AH00489/);
wait_for(sub { (grep { $_->{hook} eq 'child_init' } $s->probe) >= 2 }, 10);

# The answers to all codes at one moment, by the last process that asked.
sub answers {
    my ($when) = @_;
    my %answer;
    for (grep { $_->{hook} eq 'query' && $_->{when} eq $when } $s->probe) {
        $answer{ $_->{code} } = $_->{rv} == 0 ? $_->{result} : 'unknown';
    }
    return \%answer;
}

# CAN_WAITIO (19) is a question since httpd 2.4.63.
my %constant = (
    2 => 1, 3 => 2, 4 => 5, 5 => 10, 6 => 4, 7 => 0, 8 => 3, 9 => 0, 10 => 90, 11 => 1000, 12 => 4, 14 => 1, 15 => 0,
    16 => 'unknown', 17 => 'unknown', 18 => 'unknown', 19 => Hybrid::Server::event_answers(19) // 'unknown', 99 => 'unknown',
);
for my $when (qw(post_config pre_mpm child_init)) {
    my $answer = answers($when);
    is_deeply { map { $_ => $answer->{$_} } keys %constant }, \%constant, "at $when: every constant answer";
    is $answer->{13}, 0, "at $when: the state is STARTING";
}
cmp_ok answers('child_init')->{1}, '>=', 1, 'MAX_DAEMON_USED counts the slots used';

subtest 'Q03: STOPPING at once in a child that ends, Q04: the generation before the next configuration' => sub {
    $s->graceful;
    ok wait_for(sub { grep { $_->{hook} eq 'child_stopping' } $s->probe }, 10), 'children are told';
    is $_->{state}, 2, 'and are STOPPING then' for grep { $_->{hook} eq 'child_stopping' } $s->probe;
    is answers('post_config')->{15}, 1, 'post_config sees the next generation';
    $s->restart;
    is answers('post_config')->{15}, 2, 'after a hard restart, too';
};

done_testing;
