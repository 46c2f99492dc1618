# SPDX-License-Identifier: Apache-2.0
package Hybrid::SideBySide;

# The same clients, at the same time, of mpm_hybrid and of mpm_event, which is the measure of what a reload may cost.
#
#   my $servers = servers(mpm_conf => $more, conf => $more, modules => $more);
#                                                              # { hybrid => ..., event => ... }; MPM=event: that only
#   url($servers->{hybrid}, 'h2', '/slow');                    # h1: plain; tls: HTTP/1.1 in it; h2: in TLS
#   reload($servers, 8, 0.5);                                  # eight times, a pause of half a second after each
#   add(\my %sums, 'hybrid', 'curl', { answered => 5, failed => { why => 1 } });
#   judge(\%sums, closed => qr/tls/);                      # tests: none of hybrid's fails; such: no more than event's
#
# /slow takes a fifth of a second, /dot.gif is an image, POST is answered like GET.

use strict;
use warnings;
use Exporter 'import';
use Test::More;
use Hybrid::Server;

our @EXPORT = qw(servers url reload add failures judge);

# A request that has met a goodbye: the server has refused it, and the library leaves it to its user to ask again. All that
# a session has under way meet it together, which are four (t/43-client-libraries.t): so few are two sessions.
my $REFUSED = qr/REFUSED_STREAM/;
my $FEW = 8;
my $MPM_CONF = "StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 150\nMinSpareThreads 25\nMaxSpareThreads 75\n";

# Programs that end with the configuration, so that a reload has to end what can't move at once.
our $PROGRAMS = <<'CONF';
CustomLog "|/bin/cat >> @ROOT@/logs/piped" "%U"
RewriteEngine On
RewriteMap same prg:@DOCS@/same
RewriteRule ^/mapped/(.*)$ /${same:$1} [L]
CONF

sub mpms { return Hybrid::Server::mpm() eq 'hybrid' ? qw(hybrid event) : Hybrid::Server::mpm() }

sub servers { my @how = @_; return { map { $_ => server($_, @how) } mpms() } }

sub server {
    my ($which, %option) = @_;
    my $s = Hybrid::Server->new(
        mpm => $which, level => 'notice', uncounted => $which eq 'event' && 'only the measure',
        modules => [qw(ssl socache_shmcb http2 env ratelimit rewrite), @{ $option{modules} || [] }],
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
    $s->file('dot.gif', pack 'H*', '47494638396101000100800000000000ffffff2c00000000010001000002024401003b');
    $s->file('same', "#!/usr/bin/perl\n\$| = 1;\nwhile (<STDIN>) { print }\n", 0755);
    return $s->start;
}

sub url {
    my ($s, $protocol, $path) = @_;
    my %place = (tls => [ https => 3 ], h2 => [ https => 2 ]);
    my ($scheme, $port) = @{ $place{$protocol} || [ http => 1 ] };
    return "$scheme://127.0.0.1:" . $s->port($port) . $path;
}

sub reload {
    my ($servers, $times, $pause) = @_;
    for (1 .. $times) {
        $_->graceful for values %$servers;
        select undef, undef, undef, $pause; # the pace of the load, not a wait for anything
    }
}

sub add {
    my ($sums, $mpm, $name, $result) = @_;
    my $of = $sums->{$mpm}{$name} ||= { answered => 0, failed => {} };
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

sub judge {
    my ($sums, %option) = @_;
    my ($ours, $theirs) = map { $sums->{$_} || {} } qw(hybrid event);
    for my $name (sort keys %$ours) {
        my $of = $ours->{$name};
        my $failed = failures($of, $REFUSED);
        my $beside = failures($theirs->{$name}) . ' with event';
        cmp_ok $of->{answered}, '>', 0, "$name: $of->{answered} answered";
        if ($option{closed} && $name =~ $option{closed}) {
            cmp_ok $failed, '<=', failures($theirs->{$name}), "not more fail than with event: $failed, $beside";
        }
        else { is $failed, 0, "none fails ($beside)" or diag "$name\n", in_words($of) }
        my $refused = failures($of) - $failed;
        cmp_ok $refused, '<=', $FEW, "few have to be asked again: $refused" if $refused;
    }
    for (sort keys %$theirs) {
        my $failed = failures($theirs->{$_});
        cmp_ok $theirs->{$_}{answered}, '>', 0, "event, $_: $theirs->{$_}{answered} answered, $failed failed";
        note in_words($theirs->{$_}) if $failed;
    }
}

1;
