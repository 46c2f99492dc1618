# Real client libraries over reloads and over MaxConnectionsPerChild: Go, Python, node and curl as Debian has them, on
# plain connections, TLS and HTTP/2, idle and busy. What counts is what the library reports to its user. mpm_event has
# the same clients at the same time.

use strict;
use warnings;
use Test::More;
use Hybrid::Library qw(curl transfer);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm has no idle connections to lose" if $mpm !~ /^(?:hybrid|event)$/;
my @mpms = $mpm eq 'hybrid' ? qw(hybrid event) : 'event';

my $CLIENTS = 4; # of each library and protocol
my @LIBRARIES = ([ go => qw(h1 tls h2) ], [ python => qw(h1 tls urllib) ], [ node => qw(h1 tls h2) ]);
my $MPM_CONF = "StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 75\n";

# A request that has met a goodbye: the server has refused it, and node leaves it to its user to ask again.
my $REFUSED = qr/REFUSED_STREAM/;

# Programs that end with the configuration, so that a reload has to end what can't move at once.
my $PROGRAMS = <<'CONF';
CustomLog "|/bin/cat >> @ROOT@/logs/piped" "%U"
RewriteEngine On
RewriteMap same prg:@DOCS@/same
RewriteRule ^/mapped/(.*)$ /${same:$1} [L]
CONF

# Plain HTTP, TLS with HTTP/2, and TLS with HTTP/1.1 only; /slow takes a fifth of a second.
sub server {
    my ($which, %option) = @_;
    my $s = Hybrid::Server->new(
        mpm => $which, modules => [qw(ssl socache_shmcb http2 env ratelimit rewrite)], level => 'notice',
        mpm_conf => $MPM_CONF . ($option{mpm_conf} // ''),
        conf => Hybrid::Server->tls_vhost('Protocols h2 http/1.1') . <<'CONF' . ($option{conf} // ''));
Listen 127.0.0.1:@PORT3@ https
<VirtualHost 127.0.0.1:@PORT3@>
    SSLEngine on
    SSLCertificateFile @ROOT@/cert.pem
    SSLCertificateKeyFile @ROOT@/key.pem
</VirtualHost>
KeepAliveTimeout 30
MaxKeepAliveRequests 0
<Location /slow>
    SetOutputFilter RATE_LIMIT
    SetEnv rate-limit 40
</Location>
CONF
    $s->make_certificate;
    $s->file('slow', 'x' x 12_000);
    $s->file('same', "#!/usr/bin/perl\n\$| = 1;\nwhile (<STDIN>) { print }\n", 0755);
    return $s->start;
}

sub url {
    my ($s, $protocol, $path) = @_;
    my %place = (tls => [ https => 3 ], h2 => [ https => 2 ]);
    my ($scheme, $port) = @{ $place{$protocol} || [ http => 1 ] };
    return "$scheme://127.0.0.1:" . $s->port($port) . $path;
}

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

sub add {
    my ($sum, $name, $result) = @_;
    my $of = $sum->{$name} ||= { answered => 0, failed => {} };
    $of->{answered} += $result->{answered};
    $of->{failed}{$_} += $result->{failed}{$_} for keys %{ $result->{failed} };
}

# How many failed, but for such reasons.
sub failures {
    my ($of, $but) = @_;
    my $count = 0;
    $count += $of->{failed}{$_} for grep { !$but || !/$but/ } keys %{ $of->{failed} };
    return $count;
}

sub in_words { my ($of) = @_; return join "\n", map { "  $of->{failed}{$_} x $_" } sort keys %{ $of->{failed} } }

# Results by MPM and client: none of hybrid's fails, but where `closed` says that its connection can't be kept; then not
# more than event's.
sub judge {
    my ($sums, %option) = @_;
    my ($ours, $theirs) = map { $sums->{$_} || {} } qw(hybrid event);
    for my $name (sort keys %$ours) {
        my $of = $ours->{$name};
        my $failed = failures($of, $REFUSED);
        my $beside = $theirs->{$name} ? failures($theirs->{$name}) . ' with event' : 'with event not asked';
        cmp_ok $of->{answered}, '>', 0, "$name: $of->{answered} answered";
        if ($option{closed} && $name =~ $option{closed}) {
            cmp_ok $failed, '<=', failures($theirs->{$name}), "not more fail than with event: $failed, $beside";
        }
        else { is $failed, 0, "none fails ($beside)" or diag "$name\n", in_words($of) }
        my $refused = failures($of) - $failed;
        cmp_ok $refused, '<=', 3, "few have to be asked again: $refused" if $refused;
    }
    for (sort keys %$theirs) {
        my $failed = failures($theirs->{$_});
        cmp_ok $theirs->{$_}{answered}, '>', 0, "event, $_: $theirs->{$_}{answered} answered, $failed failed";
        note in_words($theirs->{$_}) if $failed;
    }
}

# Clients of both servers at the same time, for so long, with such pauses, and reloads meanwhile.
sub load {
    my ($servers, $path, $seconds, $pause, $reloads) = @_;
    my (%sums, %clients);
    $clients{$_} = [ clients($servers->{$_}, $path) ] for @mpms;
    for my $which (@mpms) { $_->ask(1, $seconds, $pause) for @{ $clients{$which} } }
    for (1 .. $reloads) {
        $_->graceful for values %$servers;
        select undef, undef, undef, ($seconds - 1) / $reloads; # the pace of the load, not a wait for anything
    }
    for my $which (@mpms) { add($sums{$which} ||= {}, $_->name, $_->result) for @{ $clients{$which} } }
    return \%sums;
}

sub servers { my @how = @_; return { map { $_ => server($_, @how) } @mpms } }

# Everything idle, a reload or two, then a request each, and so on.
sub rounds {
    my ($servers, $rounds) = @_;
    my (%sums, %clients);
    $clients{$_} = [ clients($servers->{$_}, '/') ] for @mpms;
    for my $round (0 .. $rounds) {
        for my $which (@mpms) {
            for (1 .. ($round ? 1 + $round % 2 : 0)) { $servers->{$which}->graceful }
        }
        select undef, undef, undef, 0.3 * $round; # some hear in it that they have to go, others don't
        for my $which (@mpms) { $_->ask(2) for @{ $clients{$which} } }
        for my $which (@mpms) { add($sums{$which} ||= {}, $_->name, $_->result) for @{ $clients{$which} } }
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
    my @first = map { join ' ', $servers->{$_}->children } @mpms;
    judge(load($servers, '/', 4, 100, 0));
    for (0 .. $#mpms) {
        isnt join(' ', $servers->{ $mpms[$_] }->children), $first[$_], "children of $mpms[$_] were replaced";
    }
};

# Old children would have no programs, so what can't move to the new ones is closed when it is idle.
subtest 'idle over reloads, and the configuration has programs' => sub {
    judge(rounds(servers(conf => $PROGRAMS), 3), closed => qr/ (?:tls|h2)$/);
};

# curl asks one thing after another, and between two for something slow elsewhere: that long its connection is idle.
subtest 'curl' => sub {
    my $why = Hybrid::Library::missing('curl');
    plan skip_all => $why if $why;
    my ($servers, %sums, %ends) = servers();
    for my $which (@mpms) {
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
    for (1 .. 7) {
        $_->graceful for values %$servers;
        select undef, undef, undef, 0.4; # the pace of the load, not a wait for anything
    }
    for my $which (@mpms) {
        for my $kind (sort keys %{ $ends{$which} }) {
            my $result = $ends{$which}{$kind}->();
            add($sums{$which} ||= {}, "curl $kind", $result);
            cmp_ok $result->{connections}, '<', $result->{answered} * 0.8,
                "$which: $kind: connections are used again: $result->{connections}";
        }
    }
    judge(\%sums);
};

done_testing;
