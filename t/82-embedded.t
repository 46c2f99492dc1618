# SPDX-License-Identifier: Apache-2.0
# Languages that run inside the server, on our threads (parity X29).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Load qw(wrk);
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
my $mpm_conf = "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 16\nMinSpareThreads 1\nMaxSpareThreads 16";

# The same path again and again by many, across a reload: each answer is a good one.
sub holds_under_load {
    my ($s, $path) = @_;
    my $pid = fork // die;
    if (!$pid) {
        select undef, undef, undef, 0.7;
        kill 'USR1', $s->pid;
        POSIX::_exit(0);
    }
    my $load = wrk(16, 2, $s->url($path));
    waitpid $pid, 0;
    is $load->{bad}, 0, 'no bad answer under load' or diag $load->{text};
    is $load->{errors}, 0, 'none lost in a reload' or diag $load->{text} if $mpm eq 'hybrid';
    cmp_ok $load->{requests}, '>', 50, 'it is served';
    is scalar(() = $s->log =~ /exit signal/g), 0, 'nothing crashed';
}

my %wsgi = (embedded => '', daemon => <<'CONF');
WSGISocketPrefix @ROOT@/run/wsgi
WSGIDaemonProcess daemon processes=1 threads=4
WSGIProcessGroup daemon
CONF

for my $mode (sort keys %wsgi) {
    my $s = Hybrid::Server->new(modules => ['wsgi'], mpm_conf => $mpm_conf, conf => "WSGIScriptAlias /py \@DOCS\@/app.wsgi\n$wsgi{$mode}",
        uncounted => $mode eq 'embedded' ? 'Python 3.11 in a child hangs in Py_EndInterpreter() at its end, with event, too' : '');
    $s->file('app.wsgi', <<'PY');
import threading
def application(environ, start_response):
    body = environ['wsgi.input'].read()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [('%s %s %d' % (environ['mod_wsgi.process_group'], environ['wsgi.multithread'], len(body))).encode()]
PY
    $s->start;
    subtest "mod_wsgi, $mode" => sub {
        my $who = $mode eq 'daemon' ? 'daemon' : '';
        is $s->get('/py')->{body}, "$who True 0", 'answers, and knows that it is threaded';
        my $client = Hybrid::Client->new($s->port);
        $client->send("POST /py HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" . 'x' x 70_000);
        is $client->response->{body}, "$who True 70000", 'a body';
        $client->disconnect;
        if ($mode eq 'embedded') {
            holds_under_load($s, '/py');
        }
        else { # what is in work at a reload may miss its daemon
            my $load = wrk(16, 1, $s->url('/py'));
            is $load->{bad}, 0, 'no bad answer under load' or diag $load->{text};
            is $load->{errors}, 0, 'none lost' or diag $load->{text} if $mpm ne 'event'; # K01
            $s->graceful;
            is $s->get('/py')->{body}, "$who True 0", 'and after a reload';
        }
    };
}

subtest 'mod_perl' => sub {
    my $s = Hybrid::Server->new(modules => ['perl'], mpm_conf => $mpm_conf, conf => <<'CONF');
PerlSwitches -I@ROOT@
PerlModule Answer
<Location /perl>
    SetHandler perl-script
    PerlResponseHandler Answer
</Location>
CONF
    $s->file('../Answer.pm', <<'PERL');
package Answer;
use strict;
use Apache2::RequestRec ();
use Apache2::RequestIO ();
use Apache2::MPM ();
sub handler {
    my ($r) = @_;
    $r->content_type('text/plain');
    $r->print(join(' ', Apache2::MPM->show, Apache2::MPM->is_threaded ? 'threaded' : 'not threaded'));
    return 0;
}
1;
PERL
    $s->start;
    is lc $s->get('/perl')->{body}, "$mpm threaded", 'sees the MPM as it is';
    holds_under_load($s, '/perl');
};

subtest 'mod_lua: LuaScope thread' => sub {
    my $s = Hybrid::Server->new(modules => ['lua'], mpm_conf => $mpm_conf, conf => <<'CONF');
LuaScope thread 2 8
LuaMapHandler /lua @DOCS@/answer.lua handle
CONF
    $s->file('answer.lua', <<'LUA');
count = 0
function handle(r)
    count = count + 1
    r.content_type = "text/plain"
    r:puts("lua ", count)
    return apache2.OK
end
LUA
    $s->start;
    my $client = Hybrid::Client->new($s->port);
    like $client->get('/lua')->{body}, qr/^lua \d+$/, 'answers';
    my %seen;
    $seen{ $client->get('/lua')->{body} }++ for 1 .. 20;
    cmp_ok scalar(keys %seen), '>', 1, 'and a thread keeps its state';
    holds_under_load($s, '/lua');
};

subtest 'mod_php does not run on threads, and says so' => sub {
    my $s = Hybrid::Server->new(modules => ['php']);
    my ($status, $text) = $s->run('-t');
    isnt $status, 0, 'refused';
    like $text, qr/threaded MPM, but your PHP Module is not compiled to be threadsafe/, 'in its own words';
};

done_testing;
