# SPDX-License-Identifier: Apache-2.0
# Processes and modules that live beside the MPM: nothing of ours is in what modules fork, with exec or without, as
# whichever user (W04), and a reload goes unnoticed whatever is loaded.

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Descriptors;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
my $other_user = 'daemon'; # the WSGI application's

my $programs = <<"CONF";
ScriptSock \@ROOT\@/run/cgisock
WSGISocketPrefix \@ROOT\@/run/wsgi
WSGIDaemonProcess app user=$other_user group=nogroup processes=2 threads=2 home=/
WSGIScriptAlias /app \@DOCS\@/app.wsgi process-group=app application-group=%{GLOBAL}
RewriteEngine On
RewriteMap next prg:\@DOCS\@/next
RewriteRule ^/map/(.*)\$ /\${next:\$1} [L]
LogFormat "%U" path
CustomLog "|/usr/bin/tee -a \@ROOT\@/logs/piped" path
<Directory \@DOCS\@>
    Options +ExecCGI
    AddHandler cgi-script .cgi
</Directory>
CONF

sub server {
    my ($modules, $conf, %option) = @_;
    my $s = Hybrid::Server->new(modules => $modules, mpm_conf => "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 32\nMinSpareThreads 8\nMaxSpareThreads 32",
        conf => "KeepAliveTimeout 30\nMaxKeepAliveRequests 0\n$conf", level => 'info mpm_@MPM@:debug', %option);
    $s->file('app.wsgi', <<'PYTHON');
import os
def application(environ, start_response):
    body = b'app'
    if environ.get('PATH_INFO') == '/fork':
        pid = os.fork()
        if pid == 0:
            names = []
            for fd in os.listdir('/proc/self/fd'):
                try: names.append(os.readlink('/proc/self/fd/' + fd))
                except OSError: pass
            with open(environ['DOCUMENT_ROOT'] + '/../run/forked', 'w') as out: out.write('\n'.join(names) + '\n')
            os._exit(0)
        os.waitpid(pid, 0)
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]
PYTHON
    $s->file('next', "#!/usr/bin/perl\n\$| = 1;\nwhile (<STDIN>) { chomp; print \"file\$_\\n\" }\n", 0755);
    $s->file('file1', "one\n");
    $s->file('pid.cgi', "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \$\$\nexec >&-\nsleep 20\n", 0755);
    return $s;
}

# Who is no child of the MPM's: { role => [pids] }.
sub strangers {
    my ($s) = @_;
    my %ours = map { $_ => 1 } $s->log =~ /Child \d+ started: pid (\d+)/g;
    my $user = getpwnam $other_user;
    my %role;
    for my $process (grep { !$ours{ $_->{pid} } } family($s->{pid})) {
        my $role = $process->{name} ne 'apache2' ? $process->{name} : $process->{uid} == $user ? 'mod_wsgi' : 'mod_cgid';
        push @{ $role{$role} }, $process->{pid};
    }
    return \%role;
}

# A CGI program sleeps on after its answer; it is the daemon's child.
sub cgi_pid {
    my ($s) = @_;
    my $client = Hybrid::Client->new($s->port);
    $client->send("GET /pid.cgi HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    my ($pid) = $client->read_until(qr/\r\n\r\n(?:\w+\r\n)?\d+\n/) =~ /(\d+)\n\z/;
    return $pid;
}

sub all_there {
    my ($s) = @_;
    my $roles;
    wait_for(sub {
        $roles = strangers($s);
        @{ $roles->{mod_wsgi} || [] } == 2 && @{ $roles->{mod_cgid} || [] } == 1 && $roles->{tee} && $roles->{next};
    }, 20) or return;
    return $roles;
}

# httpd makes them anew.
sub kill_daemons {
    my ($s) = @_;
    my $roles = all_there($s) or return 0;
    my @killed = (@{ $roles->{mod_wsgi} }, @{ $roles->{mod_cgid} });
    kill 'KILL', @killed;
    return wait_for(sub { !grep { kill 0, $_ } @killed }, 15);
}

# Kinds of descriptors that are here more often than in any process known to be right.
sub more_than {
    my ($here, $known) = @_;
    my (%most, %count);
    for my $right (@$known) {
        my %there;
        $there{$_}++ for @$right;
        for (keys %there) { $most{$_} = $there{$_} if $there{$_} > ($most{$_} // 0) }
    }
    $count{$_}++ for @$here;
    return map { "$_: $count{$_} and not " . ($most{$_} // 0) } grep { $count{$_} > ($most{$_} // 0) } sort keys %count;
}

subtest 'W04: what modules fork holds nothing of ours' => sub {
    plan skip_all => 'only root has other users\' daemons' if $> != 0;
    plan skip_all => "$mpm has no channel" if $mpm ne 'hybrid';
    my $oracle = server([qw(wsgi cgid rewrite)], $programs, mpm => 'event', uncounted => 'its daemons look like children')->start;
    my %known;
    for my $before (sub {}, sub { $oracle->graceful }, sub { kill_daemons($oracle) }) {
        $before->();
        my $roles = all_there($oracle) or return fail 'beside mpm_event they are not all there';
        $oracle->get('/app'); # its daemon has what it needs from then on
        $roles->{cgi} = [ cgi_pid($oracle) ];
        for my $role (keys %$roles) { push @{ $known{$role} }, [ kinds($_) ] for @{ $roles->{$role} } }
    }
    undef $oracle;

    my $s = server([qw(wsgi cgid rewrite)], $programs, uncounted => 'its daemons look like children')->start;
    my $look = sub {
        my ($when) = @_;
        my $roles = all_there($s) or return fail "$when: they are not all there";
        is $s->get('/app')->{body}, 'app', "$when: mod_wsgi's daemon answers" or return;
        my @ours = private_to($s->{pid});
        cmp_ok scalar(@ours), '>=', 3, "$when: the parent has the channel's ends, and what it is called by";
        $roles->{cgi} = [ cgi_pid($s) ];
        for my $role (sort keys %$roles) {
            my @pids = @{ $roles->{$role} };
            is_deeply [ map { shared($_, @ours) } @pids ], [], "$when: $role holds none of them";
            my @more; # a request may just be coming to its end
            wait_for(sub { !(@more = map { more_than([ kinds($_) ], $known{$role}) } @pids) }, 5);
            is_deeply \@more, [], "$when: nothing that it does not hold beside mpm_event";
        }
    };
    $look->('at the start');
    $s->graceful for 1 .. 3;
    $look->('after reloads');
    $s->restart;
    $look->('after a restart');
    ok kill_daemons($s), 'the daemons are killed';
    $look->('when they have been made anew');
    is $s->get('/app/fork')->{body}, 'app', 'a daemon forks';
    my $there = () = Hybrid::Server::slurp($s->root . '/run/forked') =~ /\n/g;
    my $now = keys %{ { held((all_there($s)->{mod_wsgi})->[0]) } };
    cmp_ok $there, '>=', $now - 1, 'and its child has all that was the daemon\'s own';
};

# A handler that forks, and its child goes on by itself.
subtest 'W04: what a handler forks' => sub {
    my $s = server(['perl'], <<'CONF');
<Perl>
    package Forker;
    use Apache2::RequestRec (); use Apache2::RequestIO (); use Apache2::Const -compile => 'OK';
    sub handler {
        my $r = shift;
        my $pid = fork;
        if (!$pid) { select undef, undef, undef, 20; require POSIX; POSIX::_exit(0) }
        $r->content_type('text/plain');
        $r->print("$pid\n");
        return Apache2::Const::OK;
    }
    $INC{'Forker.pm'} = 1;
</Perl>
<Location /fork>
    SetHandler perl-script
    PerlResponseHandler Forker
</Location>
CONF
    $s->{uncounted} = 'mod_perl gives processes another name';
    $s->start;
    $s->graceful;
    my ($pid) = $s->get('/fork')->{body} =~ /^(\d+)$/m;
    ok $pid, 'forks';
    my @ours = private_to($s->{pid});
    cmp_ok scalar(@ours), '>=', 3, 'the parent has them' if $mpm eq 'hybrid';
    is_deeply [ shared($pid, @ours) ], [], 'what it has forked holds nothing of the parent\'s';
    is $s->get('/')->{body}, "hello\n", 'the server serves';
    kill 'KILL', $pid;
};

# Requests go on while the server reloads: [what is loaded, its configuration, a request, what is answered, and whether
# a program answers that ends with the configuration: then a request that is with it at that moment fails].
my @neighbours = (
    # In an interpreter of its own mod_wsgi waits for ever when it ends, with mpm_event, too.
    ['mod_wsgi, embedded', ['wsgi'], "WSGIApplicationGroup %{GLOBAL}\nWSGIScriptAlias /app \@DOCS\@/app.wsgi\n<Directory \@DOCS\@>\nRequire all granted\n</Directory>", '/app', 'app'],
    ['mod_cgid', ['cgid'], "ScriptSock \@ROOT\@/run/cgisock\n<Directory \@DOCS\@>\nOptions +ExecCGI\nAddHandler cgi-script .cgi\n</Directory>", '/hello.cgi', "cgi\n", 1],
    ['mod_cgi', ['cgi'], "<Directory \@DOCS\@>\nOptions +ExecCGI\nAddHandler cgi-script .cgi\n</Directory>", '/hello.cgi', "cgi\n"],
    ['RewriteMap prg:', ['rewrite'], "RewriteEngine On\nRewriteMap next prg:\@DOCS\@/next\nRewriteRule ^/map/(.*)\$ /\${next:\$1} [L]", '/map/1', "one\n", 1],
    ['mod_perl', ['perl'], "<Perl>\npackage Hello;\nuse Apache2::RequestRec ();\nuse Apache2::RequestIO ();\nsub handler { my \$r = shift; \$r->content_type('text/plain'); \$r->print('perl'); return 0 }\n\$INC{'Hello.pm'} = 1;\n</Perl>\n<Location /perl>\nSetHandler perl-script\nPerlResponseHandler Hello\n</Location>", '/perl', 'perl'],
    ['mod_security2', [qw(unique_id security2)], "SecRuleEngine On\nSecRequestBodyAccess On\nSecAuditEngine RelevantOnly\nSecAuditLog \@ROOT\@/logs/audit\nSecDataDir \@ROOT\@/run\nSecTmpDir \@ROOT\@/run\nSecRule ARGS \"\@contains attack\" \"id:1,phase:2,deny,status:403\"", '/index.html', "hello\n"],
    ['mod_lua', ['lua'], "LuaMapHandler /lua \@DOCS\@/hello.lua", '/lua', 'lua'],
);
for my $neighbour (@neighbours) {
    my ($name, $modules, $conf, $path, $body, $program) = @$neighbour;
    subtest "reloads: $name" => sub {
        my $s = server($modules, $conf, $name eq 'mod_perl' ? (uncounted => 'it gives processes another name') : ());
        $s->file('hello.cgi', "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\ncgi\\n'\n", 0755);
        $s->file('hello.lua', "function handle(r) r:puts('lua') return apache2.OK end\n");
        $s->start;
        is $s->get($path)->{body}, $body, 'is answered' or return;
        my @clients = map { Hybrid::Client->new($s->port) } 1 .. 4;
        my ($asked, $wrong, $failed, $lost) = (0, 0, 0, 0);
        my $pid = $s->{pid};
        for my $reload (1 .. 4) {
            my $configured = () = $s->log =~ /AH00489|AH00292|AH00163/g;
            $s->signal('USR1');
            my $end = monotonic() + 20;
            my $more = 8; # rounds after the new generation is there
            while ($more > 0 && monotonic() < $end) {
                $more-- if (() = $s->log =~ /AH00489|AH00292|AH00163/g) > $configured;
                for my $client (@clients) {
                    $asked++;
                    my $r = eval { $client->get($path) };
                    !$r ? $lost++ : $r->{body} eq $body ? () : $program ? $failed++ : $wrong++;
                    $client = Hybrid::Client->new($s->port) if !$r || ($r->{header}{connection} // '') eq 'close';
                }
            }
        }
        is $wrong, 0, "no answer of $asked is wrong";
        cmp_ok $failed, '<=', 4 * @clients, 'few come at the wrong moment' if $program;
        is $lost, 0, 'none is missing' if $mpm eq 'hybrid';
        is $s->get('/?x=attack')->{status}, 403, 'and its rules hold' if $name eq 'mod_security2';
        is $s->{pid}, $pid, 'it is the same server';
        unlike $s->log, qr/AH00052|exit signal/, 'in which no process has crashed';
    };
}

done_testing;
