# SPDX-License-Identifier: Apache-2.0
# nginx, HAProxy and Varnish in front, with connections kept alive to the backend, over its reloads and over
# MaxConnectionsPerChild: none of their clients sees that. mpm_event is behind proxies of its own at the same time.

use strict;
use warnings;
use Test::More;
use POSIX ();
use Hybrid::Client;
use Hybrid::Packages qw(nginx_log program);
use Hybrid::Server;
use Hybrid::SideBySide;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm has no idle connections to lose" if $mpm !~ /^(?:hybrid|event)$/;

my @KINDS = (['with pauses', 0.6, '/'], ['with short pauses', 0.02, '/'], ['busy', 0, '/slow']);
my $CLIENTS = 2; # of each kind and proxy
my @VARNISH = split ' ', '-F -n @FOLDER@/varnish -a 127.0.0.1:@PORT@ -f @CONF@ -s malloc,20M -j none';

# The configuration of each, with its own port, the backend's, and a folder.
my %PROXY = (
    nginx => { program => 'nginx', conf => <<'CONF', command => [qw(-p @FOLDER@ -c @CONF@), nginx_log('@FOLDER@/error')] },
daemon off;
worker_processes 1;
pid @FOLDER@/pid;
error_log @FOLDER@/error;
@USER@
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path @FOLDER@/body; proxy_temp_path @FOLDER@/proxy; fastcgi_temp_path @FOLDER@/fcgi;
    uwsgi_temp_path @FOLDER@/uwsgi; scgi_temp_path @FOLDER@/scgi;
    upstream backend { server 127.0.0.1:@BACKEND@; keepalive 32; }
    server {
        listen 127.0.0.1:@PORT@;
        location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
CONF
    haproxy => { program => 'haproxy', conf => <<'CONF', command => [qw(-f @CONF@)] },
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    http-reuse always
listen proxy
    bind 127.0.0.1:@PORT@
    server backend 127.0.0.1:@BACKEND@
CONF
    varnish => { program => 'varnishd', conf => <<'CONF', command => [ @VARNISH ] },
vcl 4.0;
backend default { .host = "127.0.0.1"; .port = "@BACKEND@"; }
sub vcl_recv { return (pass); }
CONF
);

# Starts a proxy in front of a server; it lives as long as what this returns.
sub proxy {
    my ($name, $s) = @_;
    my $folder = $s->root . "/$name";
    mkdir $folder;
    chmod 0777, $folder;
    my $port = Hybrid::Server::free_port();
    my %value = (FOLDER => $folder, CONF => "$folder/conf", PORT => $port, BACKEND => $s->port,
        USER => $> == 0 ? 'user www-data;' : '');
    my ($conf, @command) = map { s/\@(\w+)\@/$value{$1}/gr } $PROXY{$name}{conf}, @{ $PROXY{$name}{command} };
    open my $out, '>', "$folder/conf" or die "$folder/conf: $!";
    print $out $conf;
    close $out;
    my $program = program($PROXY{$name}{program});
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', "$folder/said";
        open STDERR, '>&', \*STDOUT;
        exec $program, @command or POSIX::_exit(127);
    }
    my $self = bless { name => $name, port => $port, pid => $pid, owner => $$ }, 'Proxy';
    my $answer = sub { return eval { Hybrid::Client->new($port)->get('/') } || { status => 0 } };
    wait_for(sub { $answer->()->{status} == 200 }, 30)
        or die "$name does not answer:\n" . Hybrid::Server::slurp("$folder/said");
    return $self;
}

sub Proxy::DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local $?;
    kill 'TERM', $self->{pid};
    wait_for(sub { waitpid($self->{pid}, POSIX::WNOHANG()) == $self->{pid} }, 10) or kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
}

# A client process with a connection kept alive: GET and POST by turns, with pauses. Prints what it saw: everything but
# 200 is the proxy's word for a lost request.
sub client {
    my ($port, $seconds, $pause, $path) = @_;
    my $pid = open(my $out, '-|') // die "fork: $!";
    return $out if $pid;
    srand;
    my (%why, $client);
    my $end = monotonic() + $seconds;
    for (my $turn = 0; monotonic() < $end; $turn++) {
        $client ||= eval { Hybrid::Client->new($port) };
        my ($method, $body) = $turn % 2 ? ('POST', 'x' x 500) : ('GET', '');
        my $length = $body ? "Content-Length: 500\r\n" : '';
        my $request = "$method $path HTTP/1.1\r\nHost: x\r\n$length\r\n$body";
        my $answer = $client && eval { $client->send($request); $client->response(limit => 20) };
        $why{ $answer ? "$method $answer->{status}" : "$method no answer" }++;
        undef $client if !$answer || ($answer->{header}{connection} // '') eq 'close';
        select undef, undef, undef, rand $pause;
    }
    print join("\n", map { "$why{$_} $_" } keys %why), "\n";
    close STDOUT;
    POSIX::_exit(0);
}

# What the clients of those proxies see of so many seconds, while `$what` is done.
sub load {
    my ($servers, $proxies, $seconds, $what) = @_;
    my (%sums, @clients);
    for my $which (keys %$servers) {
        for my $proxy (@{ $proxies->{$which} }) {
            push @clients, [ $which, "$proxy->{name}, $_->[0]", client($proxy->{port}, $seconds, @$_[ 1, 2 ]) ]
                for (@KINDS) x $CLIENTS;
        }
    }
    $what->();
    for (@clients) {
        my ($which, $name, $out) = @$_;
        while (<$out>) {
            my ($count, $why) = /^(\d+) (.*)/ or next;
            my $answered = $why =~ / 200$/ ? $count : 0;
            add(\%sums, $which, $name, { answered => $answered, failed => $answered ? {} : { $why => $count } });
        }
        close $out;
    }
    return \%sums;
}

my @names;
for (sort keys %PROXY) {
    if (eval { program($PROXY{$_}{program}) }) { push @names, $_; next }
    my $why = "$_: this machine has no $PROXY{$_}{program}: build/install-deps brings it where the release has it";
    SKIP: { skip $why, 1 }
}

subtest 'reloads' => sub {
    my $servers = servers();
    my %proxies = map { my $s = $servers->{$_}; $_ => [ map { proxy($_, $s) } @names ] } keys %$servers;
    judge(load($servers, \%proxies, 7, sub { reload($servers, 12, 0.5) }));
};

subtest 'MaxConnectionsPerChild' => sub {
    my $servers = servers(mpm_conf => "MaxConnectionsPerChild 3\n", conf => "MaxKeepAliveRequests 30\n");
    my %first = map { $_ => join ' ', $servers->{$_}->children } keys %$servers;
    my %proxies = map { my $s = $servers->{$_}; $_ => [ map { proxy($_, $s) } @names ] } keys %$servers;
    judge(load($servers, \%proxies, 5, sub { }));
    isnt join(' ', $servers->{$_}->children), $first{$_}, "children of $_ were replaced" for sort keys %$servers;
};

done_testing;
