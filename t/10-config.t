# SPDX-License-Identifier: Apache-2.0
# Directives: every limit, clamp, text and restart rule is mpm_event's (parity D01-D21, H07, H09). The same configuration
# is given to both, and what they print must be the same but for the module's name.

use strict;
use warnings;
use Test::More;
use Hybrid::Server;
use Hybrid::Wait;

plan skip_all => 'compares hybrid with event' if Hybrid::Server::mpm() ne 'hybrid';

my %server = map { $_ => Hybrid::Server->new(mpm => $_, mpm_conf => '@CONF@') } qw(hybrid event);
my %base = map { $_ => $server{$_}->conf_text } keys %server;
$base{hybrid} =~ s/\@CONF\@/\@CONF\@\nRunTokens 1/; # with more of them it would start more children than event

# What `apache2 -t` says, without what must differ: names, times, pids, places, ports.
sub plain {
    my ($mpm, $text) = @_;
    my $s = $server{$mpm};
    $text =~ s/\Q@{[ $s->root ]}\E/ROOT/g;
    $text =~ s/mpm_$mpm/mpm_X/g;
    $text =~ s/^\[[^\]]*\] //mg;
    $text =~ s/\[pid [^\]]*\]/[pid]/g;
    $text =~ s/:@{[ $s->port ]}\b/:PORT/g;
    $text =~ s{[\w./+-]+\.c(?:\+\+)?\(\d+\): }{}g;
    return $text;
}

sub check {
    my ($conf) = @_;
    my %said;
    for my $mpm (qw(event hybrid)) {
        (my $text = $base{$mpm}) =~ s/\@CONF\@/$conf/;
        $server{$mpm}->write_conf($text);
        my ($status, $output) = $server{$mpm}->run('-t');
        $said{$mpm} = "status $status\n" . plain($mpm, $output);
    }
    (my $name = $conf) =~ s/\n/; /g;
    is $said{hybrid}, $said{event}, $name || 'no MPM directive at all';
    return $said{event};
}

subtest 'D01-D14: -t says what mpm_event says' => sub {
    like check("ServerLimit 20001"), qr/AH00497/, 'the comparison is not of empty things';
    check($_) for '', "ServerLimit 0", "ServerLimit -5", "ServerLimit junk", "ServerLimit 1",
        "ThreadLimit 100001\nServerLimit 1", "ThreadLimit 0", "ThreadLimit -1",
        "ThreadsPerChild 65", "ThreadsPerChild 0", "ThreadsPerChild -1", "ThreadLimit 10\nThreadsPerChild 11",
        "MaxRequestWorkers 10", "MaxRequestWorkers 60", "MaxRequestWorkers 1000", "MaxRequestWorkers 0",
        "MaxRequestWorkers -1", "MaxRequestWorkers 399\nServerLimit 2", "MaxClients 60", "MaxClients 1000",
        "StartServers 0", "StartServers -1", "StartServers 1000", "MinSpareThreads 0", "MinSpareThreads -1",
        "MaxSpareThreads 0", "MinSpareThreads 500\nMaxSpareThreads 1",
        "AsyncRequestWorkerFactor junk", "AsyncRequestWorkerFactor 0", "AsyncRequestWorkerFactor -1",
        "AsyncRequestWorkerFactor 0.5", "AsyncRequestWorkerFactor 1.5", "AsyncRequestWorkerFactor 1e9",
        "AsyncRequestWorkerFactor 2x", "MaxConnectionsPerChild abc", "MaxRequestsPerChild 10",
        "StartServers", "StartServers 1 2", "ThreadsPerChild 5\nThreadsPerChild 70",
        "ServerLimit 0\nThreadLimit 0\nThreadsPerChild 0\nMaxRequestWorkers 0\nStartServers 0\nMinSpareThreads 0";
};

subtest 'D15-D19: core\'s and the listening directives' => sub {
    check($_) for "ListenBacklog 0", "ListenBacklog 100", "ListenCoresBucketsRatio 0", "ListenCoresBucketsRatio 1",
        "SendBufferSize 1", "SendBufferSize 0", "ReceiveBufferSize 511", "ReceiveBufferSize 512",
        "ListenTCPDeferAccept 0", "ListenTCPDeferAccept 5", "GracefulShutdownTimeout -1", "GracefulShutdownTimeout 5",
        "GracefulShutdownTimeout x", "Mutex posixsem mpm-accept", "Mutex file:\@ROOT\@ default", "ThreadStackSize 1",
        "MaxMemFree 0", "CoreDumpDirectory /nowhere", "EnableExceptionHook On", "Listen 127.0.0.1:99999", "Listen junk";
};

subtest 'GLOBAL_ONLY: an error with file and line in sections' => sub {
    for my $directive ('StartServers 1', 'ServerLimit 1', 'MinSpareThreads 1', 'MaxSpareThreads 1', 'MaxClients 1',
        'MaxRequestWorkers 1', 'ThreadsPerChild 1', 'ThreadLimit 1', 'AsyncRequestWorkerFactor 1',
        'GracefulShutdownTimeout 1') {
        like check("<VirtualHost *:1>\n$directive\n</VirtualHost>"), qr/AH00526/, "$directive is refused";
    }
    check("<Directory />\nThreadsPerChild 1\n</Directory>");
    check("<Location />\nAsyncRequestWorkerFactor 1\n</Location>");
};

subtest 'D19: Debian\'s mpm_event.conf as it stands' => sub {
    my $conf = Hybrid::Packages::file('/etc/apache2/mods-available/mpm_event.conf');
    like check("Include $conf"), qr/status 0\nSyntax OK/;
};

# The same on a running server: what is said at a reload, and what it leaves in force.
sub warnings_of {
    my ($mpm, $text) = @_;
    return join "\n", map { s/^.*?(AH0|HYB)/$1/r } grep { /mpm_X:(?:warn|error)/ } split /\n/, plain($mpm, $text);
}

subtest 'D02, D03, D21: at a reload, in the log\'s words' => sub {
    my %said;
    for my $mpm (qw(event hybrid)) {
        my $s = $server{$mpm};
        my $first = "ServerLimit 4\nThreadLimit 8\nThreadsPerChild 4\nMaxRequestWorkers 8\nStartServers 1";
        my $second = "ServerLimit 5\nThreadLimit 9\nThreadsPerChild 10\nMaxRequestWorkers 9\nStartServers 0\nMinSpareThreads 0";
        my $third = "ServerLimit 30000\nThreadLimit 0\nThreadsPerChild 0\nMaxRequestWorkers 900\n";
        $s->write_conf($base{$mpm} =~ s/\@CONF\@/$first/r);
        $s->start;
        $s->write_conf($base{$mpm} =~ s/\@CONF\@/$second/r);
        $s->graceful;
        $s->write_conf($base{$mpm} =~ s/\@CONF\@/$third/r);
        $s->restart;
        $s->write_conf($base{$mpm} =~ s/\@CONF\@//r);
        $s->graceful;
        wait_for(sub { length $s->status->{Scoreboard} == 32 }, 10); # until then one of the former generation answers
        $said{$mpm} = 'scoreboard ' . length($s->status->{Scoreboard}) . "\n" . warnings_of($mpm, $s->log);
        is $s->status->{ServerMPM}, $mpm, "$mpm serves on";
        $s->stop;
    }
    is $said{hybrid}, $said{event}, 'the same warnings in the same order, and the same limits in force (Q01)';
    like $said{hybrid}, qr/AH00501.*AH00506/s, 'the limits that can\'t change among them';
    like $said{hybrid}, qr/AH00508/, 'in the log\'s wording';
};

subtest 'directives of our own' => sub {
    my $s = Hybrid::Server->new(mpm => 'hybrid', mpm_conf => '@CONF@');
    my $base = $s->conf_text;
    my $configtest = sub {
        $s->write_conf($base =~ s/\@CONF\@/$_[0]/r);
        return ($s->run('-t'))[1];
    };
    like $configtest->("RunTokens $_"), qr/AH00526: Syntax error on line \d+.*\n.*RunTokens/, "'$_' is refused"
        for '0', '-1', 'many', '2 0', '5000', '4 x', '1.5', '1 2 3', '';
    like $configtest->("AwaitRequest $_"), qr/Syntax OK/, "AwaitRequest $_" for qw(body Head OFF);
    like $configtest->("AwaitRequest $_"), qr/AH00526: Syntax error on line \d+.*\n.*AwaitRequest/, "AwaitRequest $_: refused" for 'on', '1', 'head body';
    my $refused = sub { my ($line) = @_; (my $name = $line) =~ s/ .*//; like $configtest->($line), qr/AH00526: Syntax error on line \d+.*\n.*$name/, "$line: refused" };
    my @times = ('1', '30', '1s', '500ms', '2mi', '2min', '1h');
    my @not_times = ('abc', '-5', '5m', '5 5', '1.5', '+5', '5x', '5sec', '5S', 's', '0x10', '99999999999999999999', '1000001', '1000000h');
    like $configtest->("GracefulRestartTimeout $_"), qr/Syntax OK/, "GracefulRestartTimeout $_" for 0, @times;
    $refused->("GracefulRestartTimeout $_") for '', @not_times;
    like $configtest->("StopGracefully $_"), qr/Syntax OK/, "StopGracefully $_" for 'off', @times, '5 0', '2min 30', '1s 500ms';
    $refused->("StopGracefully $_") for '', '0', '0s', '5 5', '5 6', '1s 1000ms', '5 x', '5 -1', grep { $_ ne '5 5' } @not_times;
    like $configtest->("MaxWaitingRequests 10 $_"), qr/Syntax OK/, "MaxWaitingRequests 10 $_" for grep { $_ ne '500ms' } @times;
    $refused->("MaxWaitingRequests 10 $_") for '0', '500ms', '1500ms', @not_times;
    $refused->("MaxWaitingRequests $_") for '', '0', '-1', 'x', '5s';
    like $configtest->("<VirtualHost *:1>\n$_\n</VirtualHost>"), qr/AH00526/, "$_: global only" for 'GracefulRestartTimeout 5', 'StopGracefully 5', 'MaxWaitingRequests 5';
    like $configtest->("<VirtualHost *:1>\nAwaitRequest off\n</VirtualHost>"), qr/AH00526/, 'global only';
    like $configtest->("<VirtualHost *:1>\nRunTokens 1\n</VirtualHost>"), qr/AH00526/, 'global only';
    like $configtest->("RunTokens $_"), qr/Syntax OK/, "'$_' is understood" for 'auto', 'AUTO 2', '3', '64 8';
    my $spare = "StartServers 1\nMinSpareThreads 1\nMaxSpareThreads 1\nThreadsPerChild 4\nMaxRequestWorkers 16";
    for (['RunTokens 3', 3], ['RunTokens 3 2', 2], ['RunTokens 64', 4], ['RunTokens 1', 1]) {
        my ($tokens, $children) = @$_;
        $s->write_conf($base =~ s/\@CONF\@/$tokens\n$spare/r);
        $s->start;
        ok wait_for(sub { $s->children == $children }, 10), "$tokens: $children children";
        $s->stop;
    }
};

subtest 'H07: a directive that is gone is back at its default' => sub {
    my $s = $server{hybrid};
    $s->write_conf($base{hybrid} =~ s/\@CONF\@/StartServers 1\nMinSpareThreads 1\nMaxSpareThreads 5\nThreadsPerChild 2\nMaxRequestWorkers 8/r);
    $s->start;
    is scalar($s->children), 1, 'one child as configured';
    $s->write_conf($base{hybrid} =~ s/\@CONF\@/ThreadsPerChild 2\nMaxRequestWorkers 8/r);
    $s->graceful;
    ok wait_for(sub { $s->children >= 3 }, 20), 'and StartServers\' default after it has gone';
    $s->stop;
};

subtest 'H09: a warning is said once at the start, on the console' => sub {
    for my $mpm (qw(event hybrid)) {
        my $s = $server{$mpm};
        $s->write_conf($base{$mpm} =~ s/\@CONF\@/MaxRequestWorkers 60/r);
        $s->start;
        my $console = Hybrid::Server::slurp($s->root . '/logs/console');
        is scalar(() = $console =~ /AH00513/g), 1, "$mpm: once";
        $s->stop;
    }
};

done_testing;
