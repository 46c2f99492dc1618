# SPDX-License-Identifier: Apache-2.0
# The hooks an MPM runs: each in its process, in order, in pairs (parity H, R, C01, T30).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(run_command);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker suspends nothing' if $mpm eq 'worker';
my $s = Hybrid::Server->new(probe => 1, modules => [qw(ssl socache_shmcb http2 proxy proxy_http)], mpm_conf => <<'MPM',
StartServers 2
ThreadsPerChild 5
MaxRequestWorkers 20
MinSpareThreads 2
MaxSpareThreads 50
MPM
    conf => Hybrid::Server->tls_vhost('Protocols h2 http/1.1') . <<'CONF');
KeepAliveTimeout 2
ProxyPass /backend/ http://127.0.0.1:@PORT@/
CONF
$s->make_certificate;
$s->start;
my $parent = $s->pid;

sub events { my ($hook) = @_; return grep { $_->{hook} eq $hook } $s->probe }

subtest 'R01, C01, R08, R09: the order of a life' => sub {
    ok wait_for(sub { events('child_init') == 2 }, 10), 'two children';
    my @of_parent = grep { $_->{hook} =~ /^(?:check_config|open_logs|post_config|pre_mpm)$/ } $s->probe;
    my $order = join ' ', map { $_->{hook} } @of_parent;
    like $order, qr/^check_config open_logs post_config check_config open_logs post_config pre_mpm$/,
        'two configuration passes, then pre_mpm';
    for my $init (events('child_init')) {
        my @own = grep { $_->{pid} == $init->{pid} && $_->{hook} =~ /^(?:drop_privileges|child_init)$/ } $s->probe;
        is join(' ', map { $_->{hook} } @own), 'drop_privileges child_init', "child $init->{pid}: privileges go first";
        is $own[1]{uid}, $> == 0 ? scalar getpwnam 'www-data' : $>, 'and are gone';
    }
    is scalar(events('monitor')), 0, 'monitor not before its time' if monotonic() * 1e6 - $of_parent[0]{time} < 5e6;
};

subtest 'R13, R15, R16, T30: every connection begins, is handed on in pairs, and ends' => sub {
    my $client = Hybrid::Client->new($s->port);
    $client->get('/') for 1 .. 3;
    $client->get('/backend/conn');
    $client->disconnect;
    my $pipelining = Hybrid::Client->new($s->port);
    $pipelining->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" x 4);
    $pipelining->response for 1 .. 4;
    $pipelining->reset;
    my $idle = Hybrid::Client->new($s->port);
    $idle->get('/');
    ok $idle->is_closed(10), 'an idle connection goes after KeepAliveTimeout';
    like run_command(20, qw(curl -sk --http2 -w %{http_version}), map { $s->{ports}[1] && "https://127.0.0.1:$s->{ports}[1]/?$_" } 1 .. 3),
        qr/2/, 'HTTP/2 is spoken';
    my $gone = sub {
        my %open;
        for ($s->probe) {
            next if !$_->{conn} || $_->{outgoing} || $_->{secondary};
            $open{"$_->{pid} $_->{conn}"}++ if $_->{hook} eq 'pre_connection';
            $open{"$_->{pid} $_->{conn}"}-- if $_->{hook} eq 'conn_gone';
        }
        return !grep { $_ } values %open;
    };
    # The connection that asks is open while it asks: nothing asks here but the log.
    ok wait_for($gone, 20), 'every primary connection that began is gone';

    my (%suspended, %bad);
    for (grep { $_->{hook} =~ /^(?:suspend|resume|pre_connection|conn_gone)$/ && !$_->{secondary} && !$_->{outgoing} } $s->probe) {
        my $key = "$_->{pid} $_->{conn}";
        if ($_->{hook} eq 'suspend') { $bad{"twice suspended $key"}++ if $suspended{$key}++ }
        elsif ($_->{hook} eq 'resume') { $bad{"resumed awake $key"}++ if --$suspended{$key} < 0 }
        elsif ($_->{hook} eq 'conn_gone') { $bad{"gone asleep $key"}++ if delete $suspended{$key} }
    }
    is_deeply \%bad, {}, 'suspend and resume come in pairs, also at the end';
    my @resumed = events('resume');
    cmp_ok scalar(@resumed), '>', 4, 'and there were some';
};

subtest 'H24, H25: secondary and outgoing connections' => sub {
    my @secondary = grep { $_->{secondary} } events('pre_connection');
    cmp_ok scalar(@secondary), '>', 0, 'HTTP/2 made secondary ones';
    is scalar(grep { !$_->{own_cs} } @secondary), 0, 'each with a state of its own';
    my @outgoing = grep { $_->{outgoing} } events('pre_connection');
    cmp_ok scalar(@outgoing), '>', 0, 'mod_proxy made outgoing ones';
    is scalar(grep { $_->{cs} } @outgoing), 0, 'which we don\'t touch';
};

subtest 'R17: before a close, on a thread, for idle connections, too' => sub {
    my @closes = grep { !$_->{outgoing} && !$_->{secondary} } events('pre_close');
    cmp_ok scalar(@closes), '>=', 2, 'pre_close ran';
    is scalar(grep { !$_->{thread} } @closes), 0, 'with current_thread set';
};

subtest 'R03, R04, R06, R10: children and generations' => sub {
    my @first = $s->children;
    $s->graceful;
    ok wait_for(sub { my %now = map { $_ => 1 } $s->children; !grep { $now{$_} } @first }, 20), 'the first children have gone';
    ok wait_for(sub { grep { $_->{gen} == 0 } events('end_generation') }, 10), 'generation 0 has ended';
    $s->restart;
    $s->stop;
    my (%started, %exited);
    for (events('child_status')) {
        $started{ $_->{child} }++ if $_->{status} eq 'started';
        $exited{ $_->{child} }++ if $_->{status} eq 'exited';
        is $_->{pid}, $parent, 'child_status runs in the parent' if $_->{pid} != $parent;
    }
    is_deeply \%exited, \%started, 'every child that started exited, once';
    my @ends = grep { $_->{gen} == 0 } events('end_generation');
    is scalar(@ends), 1, 'generation 0 ended once (those a restart or stop ends, core tells nobody about)';
    my @late = grep { $_->{gen} == 0 && $_->{time} > $ends[0]{time} && $_->{status} eq 'exited' } events('child_status');
    is scalar(@late), 0, 'after its last child';
    my %stopping;
    $stopping{ $_->{pid} }++ for events('child_stopping');
    is scalar(grep { !$stopping{$_} } keys %started), 0, 'every child ran child_stopping';
};

done_testing;
