# SPDX-License-Identifier: Apache-2.0
# What runs out, and what is wrong: one clear line, and the service goes on, or does not start; never half a server.

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use IO::Socket::INET;
use Hybrid::Load qw(wrk run_command);
use Hybrid::Sanitizer;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();

# Starts a server that is expected not to come up: what it said, and whether anything is left of it. One that has
# detached from us by then is given time for its last words.
sub refused {
    my ($s, $last_words) = @_;
    my $pid = $s->launch;
    my $gone = wait_for(sub { !Hybrid::Server::_alive($pid) }, 15);
    ok $gone, 'the command ends';
    $s->wait_log($last_words, 15) if $last_words;
    my $left = wait_for(sub { my $daemon = $s->pid; !$daemon || !Hybrid::Server::_alive($daemon) }, 15);
    ok $left, 'and no server is left';
    return Hybrid::Server::slurp($s->root . '/logs/console') . $s->log;
}

subtest 'a busy port' => sub {
    my $s = Hybrid::Server->new;
    my $owner = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $s->port, Listen => 1) or die $!;
    like refused($s), qr/AH00072: .*could not bind to address.*no listening sockets available, shutting down/s, 'said on the console';
};

subtest 'no Listen' => sub {
    my $s = Hybrid::Server->new;
    (my $conf = $s->conf_text) =~ s/^Listen.*\n//m;
    $s->write_conf($conf);
    like refused($s), qr/no listening sockets available/, 'said on the console';
};

subtest 'a user that does not exist' => sub {
    plan skip_all => 'only root changes its user' if $> != 0;
    my $s = Hybrid::Server->new;
    (my $conf = $s->conf_text) =~ s/^User .*/User no-such-user-here/m;
    $s->write_conf($conf);
    like refused($s), qr/bad user name no-such-user-here/, 'said on the console';
};

subtest 'a module that is not there' => sub {
    my $s = Hybrid::Server->new;
    $s->write_conf("LoadModule nothing_module /nowhere/mod_nothing.so\n" . $s->conf_text);
    like refused($s), qr/Cannot load \/nowhere\/mod_nothing.so/, 'said on the console';
};

subtest 'K14: no descriptors' => sub {
    my $s = Hybrid::Server->new(limits => { nofile => 60 }, level => 'notice')->start;
    my @children = $s->children;
    my $load = wrk(200, 2, $s->url('/'));
    cmp_ok $load->{requests}, '>', 100, 'requests are answered';
    if ($mpm eq 'hybrid') {
        is $load->{bad}, 0, 'all with what they asked for';
        is $load->{errors}, 0, 'no connection is lost' or diag $load->{text}, $s->log_tail;
        my %now = map { $_ => 1 } $s->children;
        is scalar(grep { !$now{$_} } @children), 0, 'no child is given up';
        is scalar(() = $s->log =~ /HYB0001/g), 1, 'the log says so, once (W26)';
    }
    else {
        cmp_ok $load->{bad} + $load->{errors}, '>', 0, 'difference: event loses some' if $mpm eq 'event';
        return;
    }
    ok wait_for(sub { $s->status->{ConnsTotal} <= 1 }, 10), 'afterwards it serves on';
    is $s->get('/')->{body}, "hello\n", 'and takes new connections';
};

subtest 'W26: too few descriptors for any client' => sub {
    my $s = Hybrid::Server->new(limits => { nofile => 24 });
    my $said = refused($s);
    like $said, qr/HYB0019: the limit of open files \(ulimit -n\) leaves no descriptor for clients: it has to be higher by (\d+)/, 'it says how many';
    my ($more) = $said =~ /higher by (\d+)/;
    $s = Hybrid::Server->new(limits => { nofile => 24 + $more + 4 }, mpm_conf => "StartServers 1\nThreadsPerChild 2\nMaxRequestWorkers 2\n")->start;
    is $s->get('/')->{body}, "hello\n", 'with a few more than that it serves';
} if $mpm eq 'hybrid';

# A system user of our own: the limit counts all processes of a user, and root has none.
my $user = 'hybrid-test';
my $made = $> == 0 && !getpwnam $user && system("useradd --system --no-create-home $user 2>/dev/null") == 0;
END { local $?; system("userdel $user 2>/dev/null") if $made }

sub short_of_threads {
    my ($threads, $more) = @_;
    $threads += 2 if Hybrid::Sanitizer::sanitizer() eq 'tsan'; # ThreadSanitizer has some of its own
    my $s = Hybrid::Server->new(probe => 1, limits => { nproc => $threads }, mpm_conf => ($more // '') . <<'CONF');
StartServers 1
ThreadsPerChild 20
MaxRequestWorkers 20
MinSpareThreads 1
MaxSpareThreads 40
CONF
    (my $conf = $s->conf_text) =~ s/^User .*/User $user/m;
    $s->write_conf($conf);
    return $s;
}

subtest 'fewer threads than wanted' => sub {
    plan skip_all => 'needs root, and a user of its own' if !$made;
    plan skip_all => 'event gives such a child up' if $mpm ne 'hybrid';
    my $s = short_of_threads(8)->start;
    my @clients = map {
        my $client = Hybrid::Client->new($s->port);
        $client->send("GET /sleep?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n");
        $client;
    } 1 .. 12;
    is scalar(grep { $_->response->{status} == 200 } @clients), 12, 'more blocked handlers than threads: all are answered';
    is scalar(() = $s->log =~ /HYB0002: can't start another worker thread, going on with [1-9]/g), 1, 'one line says how many there are';
    is $s->get('/')->{body}, "hello\n", 'and they serve';
    cmp_ok wrk(16, 1, $s->url('/'))->{requests}, '>', 10, 'also more clients than threads';
    is $s->status->{ServerMPM}, 'hybrid', 'mod_status answers';
    cmp_ok $s->stop, '<', 5, 'it stops as usual';
};

subtest 'W08: no thread for the one that says 503: requests wait, and signals are heard' => sub {
    plan skip_all => 'needs root, and a user of its own' if !$made;
    plan skip_all => 'event has no MaxWaitingRequests' if $mpm ne 'hybrid';
    my $s = short_of_threads(2, "MaxWaitingRequests 2\n")->start;
    my @clients = map {
        my $client = Hybrid::Client->new($s->port);
        $client->send("GET /sleep?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n");
        $client;
    } 1 .. 8;
    my $cpu = sub { my ($child) = $s->children; my @f = split ' ', Hybrid::Server::slurp("/proc/$child/stat") =~ s/.*\) //sr; $f[11] + $f[12] };
    my $before = $cpu->();
    ok !$clients[-1]->is_closed(1), 'a second passes';
    cmp_ok $cpu->() - $before, '<', 50, 'and nothing spins';
    ok !(grep { $_->response->{status} !~ /^(?:200|503)$/ } @clients), 'all are answered';
    cmp_ok $s->stop, '<', 5, 'it stops as usual';
};

subtest 'no threads at all' => sub {
    plan skip_all => 'needs root, and a user of its own' if !$made;
    plan skip_all => 'worker and prefork say it in other words' if $mpm !~ /^(hybrid|event)$/;
    my $s = short_of_threads(1);
    my $said = refused($s, qr/httpd is exiting!/);
    like $said, qr/unable to create .*thread/, 'the child says what it lacks';
    like $said, qr/A resource shortage or other unrecoverable failure/, 'and the server that it gives up';
};

done_testing;
