# SPDX-License-Identifier: Apache-2.0
# Chromium over reloads and over MaxConnectionsPerChild, on plain connections, TLS and HTTP/2, idle and busy: every
# image of its pages is there, and no fetch() fails. mpm_event has the same pages at the same time.

use strict;
use warnings;
use Test::More;
use Hybrid::Chromium;
use Hybrid::Server;
use Hybrid::SideBySide;

my $mpm = Hybrid::Server::mpm();
plan skip_all => "$mpm has no idle connections to lose" if $mpm !~ /^(?:hybrid|event)$/;
plan skip_all => Hybrid::Chromium::missing() if Hybrid::Chromium::missing();

my @PROTOCOLS = qw(h1 tls h2);

# What the pages do. Who fails is asked nothing again: that is the browser's business.
my $SCRIPT = <<'JS';
let number = 0;
const result = { answered: 0, failed: {} };

function count(what, why) {
    if (why)
        result.failed[what + ' ' + why] = (result.failed[what + ' ' + why] || 0) + 1;
    else
        result.answered++;
}

function taken() {
    const before = { ...result };
    result.answered = 0;
    result.failed = {};
    return before;
}

function image() {
    return new Promise(done => {
        const one = new Image();
        one.onload = () => done(count('image'));
        one.onerror = () => done(count('image', 'broken'));
        one.src = '/dot.gif?' + ++number + Math.random();
    });
}

async function ask(method, path) {
    try {
        const body = method === 'POST' ? 'x'.repeat(500) : null;
        const answer = await fetch(path + '?' + ++number, { method, cache: 'no-store', body });
        await answer.text();
        count(method, answer.status === 200 ? '' : answer.status);
    } catch (problem) {
        count(method, String(problem));
    }
}

const all = (times, what) => Promise.all(Array.from({ length: times }, (_, n) => what(n)));
const some = times => all(times, n => ask(n % 2 ? 'POST' : 'GET', '/dot.gif'));
const slow = times => all(times, n => ask(n % 2 ? 'POST' : 'GET', '/slow'));
const page = () => all(300, image);

async function load(seconds, pause) {
    const end = Date.now() + seconds * 1000;
    for (let turn = 0; Date.now() < end; turn++) {
        await [() => all(60, image), () => some(4), () => slow(8), () => some(1)][turn % 4]();
        await new Promise(done => setTimeout(done, Math.random() * pause));
    }
}
JS

# The pages of all places: by MPM and protocol.
sub pages {
    my ($browser, $servers) = @_;
    my %pages;
    for my $which (keys %$servers) {
        my $images = join '', map { "<img src='/dot.gif?$_'>" } 1 .. 300;
        $servers->{$which}->file('page.html', "<!doctype html><title>page</title><script>$SCRIPT</script>$images");
        $pages{"$which $_"} = $browser->page for @PROTOCOLS;
    }
    return \%pages;
}

# Each page at once; what it has seen is taken when all are done.
sub each_page {
    my ($pages, $script) = @_;
    my %ends = map { $_ => $pages->{$_}->start($script) } keys %$pages;
    $ends{$_}->() for keys %ends;
}

sub collect {
    my ($sums, $pages) = @_;
    for (keys %$pages) {
        my ($which, $protocol) = split ' ';
        add($sums, $which, $protocol, $pages->{$_}->run('taken()'));
    }
}

# Loads the page with its 300 images: as a document, not from the cache.
sub visit {
    my ($sums, $servers, $pages) = @_;
    for (keys %$pages) {
        my ($which, $protocol) = split ' ';
        my $error = $pages->{$_}->go(url($servers->{$which}, $protocol, '/page.html'));
        add($sums, $which, $protocol, { answered => !$error, failed => $error ? { "page $error" => 1 } : {} });
        next if $error;
        my $broken = $pages->{$_}->run('[...document.images].filter(i => !i.complete || !i.naturalWidth).length');
        my %failed = $broken ? ('image of the page' => $broken) : ();
        add($sums, $which, $protocol, { answered => 300 - $broken, failed => \%failed });
    }
}

# A browser that has the pages of both servers, and does what `$does` says.
sub browse {
    my ($servers, $does, @judged) = @_;
    my $browser = Hybrid::Chromium->new;
    my $pages = pages($browser, $servers);
    my %sums;
    visit(\%sums, $servers, $pages);
    $does->($pages, \%sums);
    collect(\%sums, $pages);
    judge(\%sums, @judged);
}

# Loads pages for so many seconds, while that is done.
sub meanwhile {
    my ($pages, $seconds, $what) = @_;
    my %ends = map { $_ => $pages->{$_}->start("load($seconds, 300)") } keys %$pages;
    $what->();
    $ends{$_}->() for keys %ends;
}

subtest 'idle over reloads' => sub {
    my $servers = servers();
    browse($servers, sub {
        my ($pages, $sums) = @_;
        for my $round (1 .. 4) { # some hear in the pause that they have to go, others don't
            reload($servers, 1 + $round % 2, 0.25 * ($round - 1));
            each_page($pages, $round % 2 ? 'some(1)' : 'some(20)');
            reload($servers, 1, 0);
            each_page($pages, 'page()');
            collect($sums, $pages);
            visit($sums, $servers, $pages) if $round % 2 == 0;
        }
    });
};

subtest 'busy, and a reload every half second' => sub {
    my $servers = servers();
    browse($servers, sub { my ($pages) = @_; meanwhile($pages, 6, sub { reload($servers, 10, 0.5) }) });
};

subtest 'MaxConnectionsPerChild' => sub {
    my $servers = servers(mpm_conf => "MaxConnectionsPerChild 10\n", conf => "MaxKeepAliveRequests 30\n");
    my %first = map { $_ => join ' ', $servers->{$_}->children } keys %$servers;
    browse($servers, sub { my ($pages) = @_; meanwhile($pages, 5, sub { }) });
    isnt join(' ', $servers->{$_}->children), $first{$_}, "children of $_ were replaced" for sort keys %$servers;
};

# Old children would have no programs, so what can't move to the new ones goes at once.
subtest 'busy over reloads, and the configuration has programs' => sub {
    my $servers = servers(conf => $Hybrid::SideBySide::PROGRAMS);
    my $load = sub { my ($pages) = @_; meanwhile($pages, 5, sub { reload($servers, 5, 0.8) }) };
    browse($servers, $load, closed => qr/tls|h2/);
};

done_testing;
