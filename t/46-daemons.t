# SPDX-License-Identifier: Apache-2.0
# Reloads beside programs that end with the configuration: requests that need them wait for the next generation's, and none
# meets a child that has lost them (W20).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

plan skip_all => 'only hybrid waits for them' if Hybrid::Server::mpm() ne 'hybrid';

my $s = Hybrid::Server->new(modules => [qw(wsgi)], level => 'info',
    uncounted => 'mod_wsgi opens a lock and a socket of another name in each generation', conf => <<'CONF');
WSGIDaemonProcess app processes=2 threads=5
WSGIProcessGroup app
WSGIScriptAlias /app @ROOT@/app.wsgi
<Directory @ROOT@>
    Require all granted
</Directory>
WSGISocketPrefix @ROOT@/run/wsgi
KeepAliveTimeout 30
MaxKeepAliveRequests 0
CONF
$s->file('../app.wsgi', <<'APP');
import time
def application(environ, start_response):
    time.sleep(0.01)
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '4')])
    return [b'wsgi']
APP
$s->start;

# One process for each client, which asks until the time is over; a request that is lost says so.
sub ask_for {
    my ($seconds, $new_each_time) = @_;
    my $pid = open(my $out, '-|') // die "fork: $!";
    return $out if $pid;
    my ($good, @bad) = (0);
    my $client;
    my $end = monotonic() + $seconds;
    while (monotonic() < $end) {
        my $again = $client; # a kept-alive connection may be closed between two requests: then a client asks again
        $client ||= Hybrid::Client->new($s->port);
        $client->send("GET /app HTTP/1.1\r\nHost: x\r\n" . ($new_each_time ? "Connection: close\r\n" : '') . "\r\n");
        my $r = eval { $client->response };
        if ($r && $r->{status} == 200 && $r->{body} eq 'wsgi') { $good++ }
        elsif ($r || !$again || length $client->buffered) { push @bad, $r ? $r->{status} : $@ }
        undef $client if !$r || $r->{header}{connection} || $new_each_time;
    }
    print "$good\n", map { s/\n/ /gr . "\n" } @bad;
    POSIX::_exit(0);
}

# mod_wsgi's daemons take three seconds to go, in which new requests wait.
my @clients = map { ask_for(8, $_ % 2) } 1 .. 6;
$s->graceful for 1 .. 2;
my ($good, $answered, @bad) = (0, 0);
for my $out (@clients) { my ($n, @lines) = <$out>; $good += $n; $answered++ if $n > 0; push @bad, @lines }
is $answered, 6, "every client is answered ($good requests)";
is_deeply \@bad, [], 'and none is lost';

done_testing;
