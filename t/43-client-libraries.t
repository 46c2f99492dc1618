# SPDX-License-Identifier: Apache-2.0
# Real client libraries over reloads and over MaxConnectionsPerChild: Go, Python, node and curl as Debian has them, on
# plain connections, TLS and HTTP/2, idle and busy. What counts is what the library reports to its user. mpm_event has
# the same clients at the same time.

use strict;
use warnings;
use Test::More;
use Hybrid::Library qw(curl transfer);
use Hybrid::Server;
use Hybrid::SideBySide;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm has no idle connections to lose" if $mpm !~ /^(?:hybrid|event)$/;

my $CLIENTS = 4; # of each library and protocol
my @LIBRARIES = ([ go => qw(h1 tls h2) ], [ python => qw(h1 tls urllib) ], [ node => qw(h1 tls h2) ]);

# All the libraries' clients of a server.
sub clients {
    my ($s, $path) = @_;
    my @clients;
    for (@LIBRARIES) {
        my ($name, @protocols) = @$_;
        next if Hybrid::Library::missing($name);
        push @clients, map { Hybrid::Library->new($name, url($s, $_, $path), $_, $CLIENTS) } @protocols;
    }
    return @clients;
}

# Clients of both servers at the same time, for so long, with such pauses, and reloads meanwhile.
sub load {
    my ($servers, $path, $seconds, $pause, $reloads) = @_;
    my %clients = map { $_ => [ clients($servers->{$_}, $path) ] } keys %$servers;
    $_->ask(1, $seconds, $pause) for map { @$_ } values %clients;
    reload($servers, $reloads, ($seconds - 1) / ($reloads || 1));
    my %sums;
    for my $which (keys %clients) { add(\%sums, $which, $_->name, $_->result) for @{ $clients{$which} } }
    return \%sums;
}

# Everything idle, a reload or two, then a request each, and so on.
sub rounds {
    my ($servers, $rounds) = @_;
    my %clients = map { $_ => [ clients($servers->{$_}, '/') ] } keys %$servers;
    my %sums;
    for my $round (0 .. $rounds) { # some hear in the pause that they have to go, others don't
        reload($servers, 1 + $round % 2, 0.15 * $round) if $round;
        $_->ask(2) for map { @$_ } values %clients;
        for my $which (keys %clients) { add(\%sums, $which, $_->name, $_->result) for @{ $clients{$which} } }
    }
    return \%sums;
}

for (@LIBRARIES, ['curl']) {
    my $why = Hybrid::Library::missing($_->[0]) or next;
    SKIP: { skip "$_->[0]: $why", 1 }
}

subtest 'idle over reloads' => sub {
    my $sums = rounds(servers(), 4);
    judge($sums);
    my $of = $sums->{event}{'python h1'};
    cmp_ok failures($of), '>', 0, 'difference: with event, Python finds its connections closed' if $of;
};

subtest 'with pauses, and a reload every half second' => sub { judge(load(servers(), '/', 5, 500, 8)) };

subtest 'busy, and a reload every half second' => sub { judge(load(servers(), '/slow', 5, 0, 8)) };

subtest 'MaxConnectionsPerChild' => sub {
    my $servers = servers(mpm_conf => "MaxConnectionsPerChild 20\n");
    my %first = map { $_ => join ' ', $servers->{$_}->children } keys %$servers;
    judge(load($servers, '/', 4, 100, 0));
    isnt join(' ', $servers->{$_}->children), $first{$_}, "children of $_ were replaced" for sort keys %$servers;
};

# Old children would have no programs, so what can't move to the new ones is closed when it is idle.
subtest 'idle over reloads, and the configuration has programs' => sub {
    judge(rounds(servers(conf => $Hybrid::SideBySide::PROGRAMS), 3), closed => qr/ (?:tls|h2)$/);
};

# curl asks one thing after another, and between two for something slow elsewhere: that long its connection is idle.
subtest 'curl' => sub {
    my $why = Hybrid::Library::missing('curl');
    plan skip_all => $why if $why;
    my ($servers, %sums, %ends) = servers();
    for my $which (keys %$servers) {
        my $s = $servers->{$which};
        for my $protocol (qw(h1 tls h2)) {
            my $elsewhere = url($s, $protocol eq 'h1' ? 'tls' : 'h1', '/slow');
            my @transfers = map {
                my $post = $_ % 4;
                $_ % 2 ? transfer($elsewhere) : transfer(url($s, $protocol, $post ? '/slow' : '/'), $post);
            } 0 .. 31;
            $ends{$which}{"one at a time, $protocol"} = curl([ $protocol eq 'h2' ? 'http2' : 'http1.1' ], @transfers);
        }
        my @transfers = map { transfer(url($s, 'h2', $_ % 2 ? '/' : '/slow'), $_ % 4 == 0) } 1 .. 300;
        my @settings = ('http2', 'parallel', 'parallel-max = 20', 'no-progress-meter');
        $ends{$which}{'many at once, h2'} = curl(\@settings, @transfers);
    }
    reload($servers, 7, 0.4);
    for my $which (sort keys %ends) {
        for my $kind (sort keys %{ $ends{$which} }) {
            my $result = $ends{$which}{$kind}->();
            add(\%sums, $which, $kind, $result);
            cmp_ok $result->{connections}, '<', $result->{answered} * 0.8,
                "$which: $kind: connections are used again: $result->{connections}";
        }
    }
    judge(\%sums);
};

done_testing;
